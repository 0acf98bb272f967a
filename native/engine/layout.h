// Every arena's bytes from (spec, options): the one truth for the planner, which shows these numbers, and the runner, which allocates exactly them.
#pragma once
#include <cstddef>

#include "model/spec.h"
#include "ops/ops.h"

namespace ewe {

struct EngineOptions {
  DType weights;
  int maxContext;           // positions of a sequence
  int maxBatch;             // sequences in a decode step
  int pageSize;             // tokens
  int pages;                // in all; 0 for what maxBatch full contexts can ever need
  int stepRows;             // rows of a step that prompts fill up
  int maxQueue = 1 << 20;   // requests that wait
  bool prefixCache = true;  // requests share the pages of common beginnings
  bool reserve = false;     // a request starts only when pages for its longest answer are left
  bool recordSteps = true;  // replay decode steps where the device can
};

// Rows whose logits exist at once.
int logitRows(const EngineOptions& options);
// Logits of a row that something can be added to: those with a bias, and every token that was generated.
constexpr int kMostBiases = 1024;
int mostAdjusted(const EngineOptions& options);
int pagesPerSequence(const EngineOptions& options);
int pageCount(const EngineOptions& options);
Limits limitsOf(const Spec& spec, const Ops& ops, const EngineOptions& options);

// Activation buffers in the order of model/forward.h, then the rest.
struct Layout {
  size_t matrices, embedding, vectors;  // one arena
  size_t cache, cacheLayer, cacheBlock;
  size_t x, a, q, wide, logits;
  size_t rotary;  // both tables
  size_t step;    // token, position, sequence, start, pages, logit rows, sampling, history and what sampling returns
  size_t scratch;
  size_t weights() const { return matrices + embedding + vectors; }
  size_t activations() const { return x + a + q + wide + logits; }
  size_t total() const { return weights() + cache + activations() + rotary + step + scratch; }
};
Layout layoutOf(const Spec& spec, const Ops& ops, const EngineOptions& options);

// The step arena's parts, as offsets in bytes. What is uploaded each step lies first and together.
struct StepLayout {
  size_t token, position, sequence, start, pages, logitRows, sampling, live, uploaded;  // uploaded: end of that part
  size_t target, history, adjustedId, adjustment, drawn, logprob, topToken, topLogprob, total;
};
constexpr int kTopLogprobs = 20;
StepLayout stepLayoutOf(const EngineOptions& options);

}  // namespace ewe

#include "engine/layout.h"

#include <algorithm>

#include "model/weights.h"

namespace ewe {

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

int logitRows(const EngineOptions& o) { return std::max(o.maxBatch, 32); }

int mostAdjusted(const EngineOptions& o) { return o.maxContext + kMostBiases; }

int pagesPerSequence(const EngineOptions& o) { return (o.maxContext + o.pageSize - 1) / o.pageSize; }

// One page more than full contexts need: the part-filled last page of a prompt stays while its samples hold copies of it.
int pageCount(const EngineOptions& o) { return o.pages > 0 ? o.pages : o.maxBatch * pagesPerSequence(o) + 1; }

Limits limitsOf(const Spec& s, const Ops& ops, const EngineOptions& o) {
  return {std::max(o.stepRows, logitRows(o)), s.hidden, (s.heads + 2 * s.kvHeads) * s.headSize, s.inner, s.heads, s.headSize, o.maxContext, s.vocab,
          ops.activationType(o.weights)};
}

StepLayout stepLayoutOf(const EngineOptions& o) {
  StepLayout l{};
  const size_t rows = size_t(std::max(o.stepRows, logitRows(o))), sequences = size_t(std::max(o.maxBatch, 1)), logits = size_t(logitRows(o));
  size_t used = 0;
  auto take = [&used](size_t bytes) {
    const size_t at = used;
    used += aligned(bytes);
    return at;
  };
  l.token = take(rows * sizeof(int));
  l.position = take(rows * sizeof(int));
  l.sequence = take(rows * sizeof(int));
  l.start = take((sequences + 1) * sizeof(int));
  l.pages = take(sequences * size_t(pagesPerSequence(o)) * sizeof(int));
  l.logitRows = take(rows * sizeof(int));
  l.sampling = take(logits * sizeof(Sampling));
  l.live = take(sizeof(int));
  l.uploaded = used;
  l.target = take(logits * sizeof(int));
  l.history = take(size_t(logitRows(o)) * size_t(o.maxContext) * sizeof(int));
  l.adjustedId = take(size_t(logitRows(o)) * size_t(mostAdjusted(o)) * sizeof(int));
  l.adjustment = take(size_t(logitRows(o)) * size_t(mostAdjusted(o)) * sizeof(float));
  l.drawn = take(logits * sizeof(int));
  l.logprob = take(logits * sizeof(float));
  l.topToken = take(logits * kTopLogprobs * sizeof(int));
  l.topLogprob = take(logits * kTopLogprobs * sizeof(float));
  l.total = used;
  return l;
}

Layout layoutOf(const Spec& s, const Ops& ops, const EngineOptions& o) {
  Layout l{};
  const WeightBytes weights = weightBytes(s, ops, o.weights);
  l.matrices = weights.matrices;
  l.embedding = weights.embedding;
  l.vectors = weights.vectors;
  const DType type = ops.activationType(o.weights), residual = ops.residualType(o.weights);
  l.cacheBlock = ops.blockBytes(o.pageSize, s.headSize, type);
  l.cacheLayer = aligned(size_t(pageCount(o)) * 2 * size_t(s.kvHeads) * l.cacheBlock);
  l.cache = l.cacheLayer * size_t(s.layers);
  const size_t rows = size_t(limitsOf(s, ops, o).rows), attention = size_t(s.heads) * size_t(s.headSize);
  l.x = aligned(rows * size_t(s.hidden) * sizeOf(residual));
  l.a = aligned(rows * size_t(s.hidden) * sizeOf(type));
  l.q = aligned(rows * attention * sizeOf(type));
  l.wide = aligned(rows * (attention + size_t(s.inner)) * sizeOf(type));
  l.logits = aligned(size_t(logitRows(o)) * size_t(s.vocab) * sizeof(float));
  l.rotary = 2 * aligned(size_t(o.maxContext) * size_t(s.rotarySize / 2) * sizeof(float));
  l.step = stepLayoutOf(o).total;
  l.scratch = ops.scratchBytes(limitsOf(s, ops, o));
  return l;
}

}  // namespace ewe

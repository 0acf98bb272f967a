// The forward pass: the architecture written once over ops. Inference and training call the same function; training passes a Save sink.
#pragma once
#include <atomic>

#include "model/spec.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace ewe {

// Angles of every position and frequency, as transformers computes them: fp32 position times fp32 frequency.
struct RotaryTables {
  const float *cos, *sin;  // [positions, rotarySize / 2]
};
// Fills host tables of positions x rotarySize / 2.
void rotaryTables(const Spec& spec, int positions, float* cos, float* sin);

// Device buffers of a step of at most `rows` rows, of which at most `logitRows` get logits.
struct Activations {
  void* x;        // [rows, hidden] residualType
  void* a;        // [rows, hidden] type: a norm's output
  void* q;        // [rows, heads headSize] type
  void* wide;     // [rows, heads headSize + inner] type: [attention output | MLP activation]
  float* logits;  // [logitRows, vocab]
  DType type, residualType;
};

struct Model {
  Spec spec;
  Weights weights;
  RotaryTables rotary;
  Cache cache;           // of layer 0
  long long cacheLayer;  // bytes from one layer's cache to the next
};

struct Step {
  Rows rows;         // device pointers
  int maxPositions;  // no position of the step reaches it
};

// Receives what training keeps and tests compare. Inference passes null.
struct Save {
  virtual ~Save() = default;
  // The residual stream [rows, hidden] residualType before layer `index`; index = layers is after the last layer.
  virtual Status residual(int index, const void* x) = 0;
  // The final norm of the rows whose logits are wanted, [rows, hidden] type.
  virtual Status final(const void* a) = 0;
};

// Embedding and layers: leaves the residual stream of every row in activations.x. Returns Kind::aborted when `stop` is set on the way (looked at once
// a layer).
Status forward(Ops& ops, const Model& model, const Activations& activations, const Step& step, const std::atomic<bool>& stop, Save* save);

// Final norm and head of `count` of the rows that forward left: activations.logits[i] belongs to row rows[i] (device pointer). live as in args.h.
Status head(Ops& ops, const Model& model, const Activations& activations, const int* rows, int count, const int* live, Save* save);

}  // namespace ewe

// The weights of a model on a device, and how they get there: each slot is filled from stored tensors by rows, rounded to the dtype wanted. For int8
// the matrices of the layers are quantised while they stream from the files, each read twice: for its scales, then for its numbers.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "model/spec.h"
#include "ops/ops.h"

namespace ewe {

enum class Slot : int {
  embed,
  norm1Weight,
  norm1Bias,
  norm2Weight,
  norm2Bias,
  qkv,
  qkvBias,
  out,
  outBias,
  up,
  upBias,
  down,
  downBias,
  finalWeight,
  finalBias,
  head,
  headBias
};
constexpr const char* kSlotNames[] = {"embed", "norm1Weight", "norm1Bias", "norm2Weight", "norm2Bias",   "qkv",       "qkvBias", "out",     "outBias",
                                      "up",    "upBias",      "down",      "downBias",    "finalWeight", "finalBias", "head",    "headBias"};
constexpr int kSlots = sizeof kSlotNames / sizeof *kSlotNames;

// One stored tensor seen as [rows, columns]; strides in elements.
struct StoredTensor {
  int file;
  uint64_t offset;
  DType type;
  int64_t rows, columns, rowStride, columnStride;
  std::string name;
};

// blocks: groups of six, [tensor, first source row, source step, first target row, target step, count]; together every target row exactly once.
struct Placement {
  Slot slot;
  int layer;
  int64_t rows, columns;
  std::vector<StoredTensor> tensors;
  std::vector<int32_t> blocks;
};

struct Checkpoint {
  Spec spec;
  std::vector<std::string> files;
  std::vector<Placement> placements;
};

struct LayerWeights {
  const float *norm1Weight, *norm1Bias, *norm2Weight, *norm2Bias;
  Matrix qkv, up;
  Matrix out, down;  // sequential models
  Matrix blockOut;   // parallel models: [out | down] over K = heads headSize + inner, with the sum of their biases
};

struct Weights {
  const void* embed;  // [vocab, hidden] embedType, which is unquantisedType()
  DType embedType;
  std::vector<LayerWeights> layers;
  const float *finalWeight, *finalBias;
  Matrix head;
};

// The dtype of the table and the head. Beside int8 weights they stay in 16 bits: those of the activations, or float16 where activations are float32.
DType unquantisedType(const Ops& ops, DType weights);

// Bytes of the arena that holds the weights; scales count as part of their matrices.
struct WeightBytes {
  size_t matrices, embedding, vectors;
  size_t total() const { return matrices + embedding + vectors; }
};
WeightBytes weightBytes(const Spec& spec, const Ops& ops, DType type);

// Fills `memory`, an arena of weightBytes().total(). Every placement is checked against the files and the spec before the first is read. `progress`
// is called on this thread with bytes done and in all; `cancel` is looked at between pieces.
Status loadWeights(const Checkpoint& checkpoint, DType type, Ops& ops, Threads& threads, void* memory, Weights& out,
                   const std::function<void(uint64_t, uint64_t)>& progress, const std::atomic<bool>& cancel);

}  // namespace ewe

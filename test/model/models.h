// Checkpoints of the tests: the two families written down from their definition, independently of src/checkpoint, and random small models.
#pragma once
#include <memory>

#include "cases.h"
#include "files.h"

namespace ewe::test {

Spec specOf(const Json& config);
// Every tensor of the family in its slot: queries, keys, values of all heads one after the other, rotated pairs side by side.
Checkpoint checkpointOf(const Json& config, const std::string& file, const std::map<std::string, StoredTensor>& tensors);
Checkpoint fixture(const std::string& name);  // a folder of test/fixtures

// Where component `c` of a head of [queries, keys] lies in a head of ewe's.
int placeInHead(const Json& config, int c);

// A checkpoint with its file.
struct OwnModel {
  std::unique_ptr<TempFile> file;
  Checkpoint checkpoint;
};
// Weights by fill(slot, layer) -> count numbers, stored as `type`.
OwnModel ownModel(const Spec& spec, DType type, bool biases, const std::function<Floats(Slot slot, int layer, size_t count)>& fill);
// Normal numbers, scaled so that logits differ well.
OwnModel randomModel(const Spec& spec, DType type, uint64_t seed);
// Rows and columns of a slot; vectors have one column. No rows where the model has no such slot.
struct SlotShape {
  int64_t rows, columns;
};
SlotShape shapeOf(const Spec& spec, Slot slot);
bool isLayered(Slot slot);
bool isBias(Slot slot);
Placement& placementOf(Checkpoint& checkpoint, Slot slot, int layer = 0);
Spec smallSpec();  // parallel, 2 layers of width 32

// A device that may be destroyed while the one behind it lives on: hands every call to it. Tests count and interfere by overriding.
class Borrowed : public Ops {
 public:
  explicit Borrowed(Ops& inner) : inner(inner) {}
  Ops& inner;
  bool multiplies(DType weights) const override { return inner.multiplies(weights); }
  DType activationType(DType weights) const override { return inner.activationType(weights); }
  DType residualType(DType weights) const override { return inner.residualType(weights); }
  size_t scratchBytes(const Limits& limits) const override { return inner.scratchBytes(limits); }
  Status reserve(const Limits& limits) override { return inner.reserve(limits); }
  Status allocate(void** memory, size_t bytes) override { return inner.allocate(memory, bytes); }
  void release(void* memory) override { inner.release(memory); }
  Status upload(void* device, const void* host, size_t bytes) override { return inner.upload(device, host, bytes); }
  Status download(void* host, const void* device, size_t bytes) override { return inner.download(host, device, bytes); }
  size_t matrixBytes(int n, int k, DType type) const override { return inner.matrixBytes(n, k, type); }
  Status store(const Matrix& m, int row, int column, int rows, int columns, const float* source, long long stride) override {
    return inner.store(m, row, column, rows, columns, source, stride);
  }
  Status fetch(const Matrix& m, int row, int rows, float* target, long long stride) override { return inner.fetch(m, row, rows, target, stride); }
  size_t blockBytes(int pageSize, int headSize, DType type) const override { return inner.blockBytes(pageSize, headSize, type); }
  Status embed(const Embed& op) override { return inner.embed(op); }
  Status norm(const Norm& op) override { return inner.norm(op); }
  Status linear(const Linear& op) override { return inner.linear(op); }
  Status blockIn(const BlockIn& op) override { return inner.blockIn(op); }
  Status attend(const Attend& op) override { return inner.attend(op); }
  Status blockOut(const BlockOut& op) override { return inner.blockOut(op); }
  Status sample(const Sample& op) override { return inner.sample(op); }
  Status logProbs(const LogProbs& op) override { return inner.logProbs(op); }
  Status copyPage(const Cache& cache, int layers, long long layerStride, int from, int to) override {
    return inner.copyPage(cache, layers, layerStride, from, to);
  }
};

// Weights and the memory they lie in.
struct Loaded {
  Buffer arena;
  ewe::Weights weights;
};

}  // namespace ewe::test

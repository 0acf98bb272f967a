// A device, as the model sees it: memory, the filling of weights, and the ops of args.h. cpu/backend.h and cuda/backend.h implement it.
#pragma once
#include <cstddef>

#include "base/error.h"
#include "ops/args.h"

namespace ewe {

// The largest op a device will be asked for: from these it sizes its own scratch memory once.
struct Limits {
  int rows;   // of a step
  int width;  // of the residual stream
  int qkv;    // outputs of the fused projection
  int inner;  // of the MLP
  int heads, headSize;
  int positions;  // of a sequence
  int vocab;
  DType type;  // of activations
};

class Ops {
 public:
  virtual ~Ops();

  // Whether the device multiplies matrices of this dtype at all; one that does not refuses their products.
  virtual bool multiplies(DType weights) const;
  // What the ops compute in, given the dtype of the weights: Limits::type, and type of every op.
  virtual DType activationType(DType weights) const = 0;
  virtual DType residualType(DType weights) const = 0;

  virtual size_t scratchBytes(const Limits&) const = 0;
  virtual Status reserve(const Limits&) = 0;

  // Device memory, aligned to 64 bytes and zeroed. Arenas are sized before use (engine/layout); nothing is allocated in a step.
  virtual Status allocate(void** memory, size_t bytes) = 0;
  virtual void release(void* memory) = 0;
  virtual Status upload(void* device, const void* host, size_t bytes) = 0;    // ordered with the ops
  virtual Status download(void* host, const void* device, size_t bytes) = 0;  // returns when the bytes are there

  // Weights arrive as fp32 pieces, which the device rounds to the matrix's type and lays out as it likes. Those of an int8 matrix are already whole
  // numbers from -127 to 127 (ops/quantise.h). Pieces of different rows may be stored
  // from several threads at once when they do not share a group of 16 rows (first row a multiple of 16).
  virtual size_t matrixBytes(int n, int k, DType type) const = 0;
  virtual Status store(const Matrix& matrix, int firstRow, int firstColumn, int rows, int columns, const float* source, long long stride) = 0;
  // Back to fp32, for tests and for saving.
  virtual Status fetch(const Matrix& matrix, int firstRow, int rows, float* target, long long stride) = 0;
  // Bytes of one block of the cache: one head's keys (or values) of one page.
  virtual size_t blockBytes(int pageSize, int headSize, DType type) const = 0;

  // Whether steps of generated rows can be recorded. A recording is what the ops between record(key) and endRecord() would do; endRecord and replay
  // do it. Only device addresses and what lies in the structs is recorded, so the same key must mean the same ops over the same addresses.
  virtual bool records() const;
  virtual bool recorded(unsigned long long key) const;
  virtual Status record(unsigned long long key);
  virtual Status endRecord();
  virtual void dropRecord();  // instead of endRecord, when an op failed
  virtual Status replay(unsigned long long key);

  virtual Status embed(const Embed&) = 0;
  virtual Status norm(const Norm&) = 0;
  virtual Status linear(const Linear&) = 0;
  virtual Status blockIn(const BlockIn&) = 0;
  virtual Status attend(const Attend&) = 0;
  virtual Status blockOut(const BlockOut&) = 0;
  virtual Status sample(const Sample&) = 0;
  virtual Status logProbs(const LogProbs&) = 0;
  // Copies whole pages of a cache of `layers` layers, layerStride bytes apart: the last, part-filled page of a prompt, for each of its samples.
  virtual Status copyPage(const Cache& cache, int layers, long long layerStride, int from, int to) = 0;
};

}  // namespace ewe

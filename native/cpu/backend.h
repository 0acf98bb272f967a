// The CPU's implementation of ops.h. Each NAME.cc of this folder is compiled once per instruction set, with -DEWE_ISA=<set> and the set's flags, into
// a namespace of its own (EWE_CPU); within a set the arithmetic of a row never depends on the other rows of the step, on tiles or on threads.
//
// Types: the residual stream is float32. float32, float16 and int8 matrices take float32 inputs, bfloat16 matrices take bfloat16 inputs. The cache
// has the activations' type. Everything is accumulated in float32.
#pragma once
#include "cpu/cpu.h"
#include "cpu/simd.h"

namespace ewe::EWE_CPU {

class Cpu final : public Ops {
 public:
  explicit Cpu(Threads& threads) : threads_(threads) {}
  ~Cpu() override;

  DType activationType(DType weights) const override { return weights == DType::bfloat16 ? DType::bfloat16 : DType::float32; }
  DType residualType(DType) const override { return DType::float32; }
  size_t scratchBytes(const Limits&) const override;
  Status reserve(const Limits&) override;
  Status allocate(void** memory, size_t bytes) override;
  void release(void* memory) override;
  Status upload(void* device, const void* host, size_t bytes) override;
  Status download(void* host, const void* device, size_t bytes) override;
  size_t matrixBytes(int n, int k, DType type) const override;
  Status store(const Matrix&, int firstRow, int firstColumn, int rows, int columns, const float* source, long long stride) override;
  Status fetch(const Matrix&, int firstRow, int rows, float* target, long long stride) override;
  size_t blockBytes(int pageSize, int headSize, DType type) const override;
  Status copyPage(const Cache&, int layers, long long layerStride, int from, int to) override;

  Status embed(const Embed&) override;
  Status norm(const Norm&) override;
  Status linear(const Linear&) override;
  Status blockIn(const BlockIn&) override;
  Status attend(const Attend&) override;
  Status blockOut(const BlockOut&) override;
  Status sample(const Sample&) override;
  Status logProbs(const LogProbs&) override;

  // body(begin, end, thread) over pieces of [0, items); runs on the caller alone when there is only one piece of `grain`.
  template <class F>
  void each(long items, long grain, F body) {
    host::each(
        threads_, items, grain, [](void* f, long begin, long end, int thread) { (*static_cast<F*>(f))(begin, end, thread); }, &body);
  }
  int threads() const { return host::threads(threads_); }
  // Memory of one thread within one op, aligned to 64 bytes: at least 8 * limits().vocab + 4096 bytes. Its content does not outlive the op.
  void* threadScratch(int thread) { return scratch_ + sizes_.shared() + size_t(thread) * sizes_.thread + kTicket; }
  // Memory of all threads within one op: inputs of products, the projection of heads of odd size, and a number for each row and one more.
  void* inputScratch() { return scratch_; }
  float* projectionScratch() { return reinterpret_cast<float*>(scratch_ + sizes_.inputs); }
  int* indexScratch() { return reinterpret_cast<int*>(scratch_ + sizes_.inputs + sizes_.projection); }
  // Each op that prepares something per thread takes a ticket; true for a thread's first call with it.
  long takeTicket() { return ++ticket_; }
  bool first(int thread, long ticket) {
    long* last = reinterpret_cast<long*>(scratch_ + sizes_.shared() + size_t(thread) * sizes_.thread);
    const bool first = *last != ticket;
    *last = ticket;
    return first;
  }
  // What this device can multiply, and has reserved scratch memory for.
  Status checkProduct(const Matrix&, DType type, int rows) const;
  Status checkCache(const Cache&, DType type, int rows) const;
  const Limits& limits() const { return limits_; }

 private:
  static constexpr size_t kTicket = 64;  // in front of a thread's memory
  struct Sizes {
    size_t inputs, projection, index, thread;  // bytes, multiples of 64
    size_t shared() const { return inputs + projection + index; }
  };
  Sizes sizes(const Limits&) const;

  Threads& threads_;
  Limits limits_ = {};
  Sizes sizes_ = {};
  char* scratch_ = nullptr;  // the shared parts, then one part per thread
  long ticket_ = 0;
};

}  // namespace ewe::EWE_CPU

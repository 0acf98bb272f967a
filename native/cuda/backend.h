// The implementation of ops.h by kernels on a card: memory, one stream, and for each op the launches that its plans (kernels/NAME.plan.h) come to.
// Whose card it is, the driver's or the emulator's, only the Session knows.
//
// Types: activations are float16 for float16 weights, bfloat16 for bfloat16 weights (from compute capability 8.0), and for int8 weights bfloat16
// where the card has it. float32 weights are not multiplied. The residual stream is float32. The cache has the activations' type.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/driver.h"
#include "kernels/plan.h"
#include "ops/ops.h"

namespace ewe::cuda {

// Of page-locked memory: a few steps' worth of what the host sends, and enough at a time for the weights to come at the bus's rate.
constexpr size_t kStagingBytes = size_t(8) << 20;

class Cuda final : public Ops {
 public:
  // path: what the images' kernels are made of (kernels/plan.h).
  static Status create(std::unique_ptr<Session> session, const Card& card, int path, const std::vector<Image>& images, std::unique_ptr<Ops>& out);
  // Without a session: for what a plan of memory asks, which is types and sizes.
  explicit Cuda(int path);
  ~Cuda() override;

  bool multiplies(DType weights) const override;
  DType activationType(DType weights) const override;
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

  bool records() const override { return true; }
  bool recorded(unsigned long long key) const override { return recordings_.count(key) > 0; }
  Status record(unsigned long long key) override;
  Status endRecord() override;
  void dropRecord() override;
  Status replay(unsigned long long key) override;

  Status embed(const Embed&) override;
  Status norm(const Norm&) override;
  Status linear(const Linear&) override;
  Status blockIn(const BlockIn&) override;
  Status attend(const Attend&) override;
  Status blockOut(const BlockOut&) override;
  Status sample(const Sample&) override;
  Status logProbs(const LogProbs&) override;

  // What the ops are made of: any kernel, behind the work that is under way.
  Status launch(const kernels::Launch& plan, const void* args, size_t bytes);
  const kernels::CardLimits& limits() const { return limits_; }

 private:
  Cuda(std::unique_ptr<Session> session, const Card& card, int path);
  template <class Args>
  Status launch(const kernels::Launch& plan, const Args& args) {
    return launch(plan, &args, sizeof args);
  }
  Status norms(const BlockIn&);
  Status find(const kernels::Launch& plan, Kernel* kernel);
  // The callers of these hold mutex_.
  Status finish();
  Status copyIn(void* device, const void* host, size_t bytes);
  Status copyOut(void* host, const void* device, size_t bytes);
  void forgetRecordings();
  Status checkScratch(size_t bytes, int rows, int heads) const;

  std::unique_ptr<Session> session_;
  kernels::CardLimits limits_;
  Stream stream_ = nullptr;
  // Weights are stored from several threads; all else comes from one.
  std::mutex mutex_;
  // Page-locked memory that uploads pass through, so that they need not wait: the copies of [0, staged_) may be under way.
  unsigned char* staging_ = nullptr;
  size_t staged_ = 0;
  void* scratch_ = nullptr;  // of one op at a time
  int* counters_ = nullptr;  // behind it; zero between ops
  Limits reserved_ = {};

  struct Found {
    Kernel kernel;
    int sharedBytes;
  };
  std::unordered_map<std::string, Found> kernels_;
  std::unordered_map<unsigned long long, Graph> recordings_;
  bool recording_ = false;
  unsigned long long key_ = 0;  // of the recording
};

}  // namespace ewe::cuda

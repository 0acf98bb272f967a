#include "cuda/backend.h"

#include <algorithm>

#include "kernels/attention.plan.h"
#include "kernels/attention_decode.plan.h"
#include "kernels/block.plan.h"
#include "kernels/block_decode.plan.h"
#include "kernels/embed.plan.h"
#include "kernels/linear.plan.h"
#include "kernels/linear_decode.plan.h"
#include "kernels/norm.plan.h"
#include "kernels/sample.plan.h"

namespace ewe::cuda {

static kernels::CardLimits limitsOf(const Card& c, int path) {
  return {path, c.sms, c.sharedPerBlock, c.sharedPerSm, c.registersPerSm, c.threadsPerSm, c.blocksPerSm};
}

Cuda::Cuda(std::unique_ptr<Session> session, const Card& card, int path) : session_(std::move(session)), limits_(limitsOf(card, path)) {}
Cuda::Cuda(int path) : limits_{path, 0, 0, 0, 0, 0, 0} {}

Status Cuda::create(std::unique_ptr<Session> session, const Card& card, int path, const std::vector<Image>& images, std::unique_ptr<Ops>& out) {
  std::unique_ptr<Cuda> device(new Cuda(std::move(session), card, path));
  EWE_TRY(device->session_->createStream(&device->stream_));
  for (const Image& image : images) EWE_TRY(device->session_->load(image));
  EWE_TRY(device->session_->allocateHost(reinterpret_cast<void**>(&device->staging_), kStagingBytes));
  out = std::move(device);
  return {};
}

// ---- types

bool Cuda::multiplies(DType weights) const { return weights == DType::int8 || kernels::multiplies(limits_.path, weights); }

DType Cuda::activationType(DType weights) const {
  if (weights != DType::int8) return weights;
  return kernels::multiplies(limits_.path, DType::bfloat16) ? DType::bfloat16 : DType::float16;
}

// ---- launches

Status Cuda::find(const kernels::Launch& plan, Kernel* kernel) {
  Found& found = kernels_[plan.name];
  if (!found.kernel || found.sharedBytes < plan.sharedBytes) {
    EWE_TRY(session_->find(plan.name, plan.sharedBytes, &found.kernel));
    if (!found.kernel) return Status::fail(Kind::device, "the kernels of this build lack %s, which path %d needs", plan.name, limits_.path);
    found.sharedBytes = plan.sharedBytes;
  }
  *kernel = found.kernel;
  return {};
}

Status Cuda::launch(const kernels::Launch& plan, const void* args, size_t bytes) {
  if (!plan.name[0]) return Status::fail(Kind::device, "%s", plan.refusal);
  Kernel kernel = nullptr;
  EWE_TRY(find(plan, &kernel));
  return session_->launch(stream_, kernel, {plan.gridX, plan.gridY, plan.gridZ}, {plan.threads, 1, 1}, plan.sharedBytes, args, bytes);
}

// ---- recordings

Status Cuda::record(unsigned long long key) {
  if (recording_) return Status::fail(Kind::internal, "a recording is under way");
  EWE_TRY(session_->beginCapture(stream_));
  recording_ = true;
  key_ = key;
  return {};
}

Status Cuda::endRecord() {
  if (!recording_) return Status::fail(Kind::internal, "no recording is under way");
  recording_ = false;
  Graph graph = nullptr;
  EWE_TRY(session_->endCapture(stream_, &graph));
  Graph& kept = recordings_[key_];
  if (kept) (void)session_->destroyGraph(kept).ok();
  kept = graph;
  return session_->launch(stream_, graph);
}

void Cuda::dropRecord() {
  Graph graph = nullptr;
  if (recording_ && session_->endCapture(stream_, &graph).ok()) (void)session_->destroyGraph(graph).ok();
  recording_ = false;
}

Status Cuda::replay(unsigned long long key) {
  const auto found = recordings_.find(key);
  if (found == recordings_.end()) return Status::fail(Kind::internal, "nothing was recorded under the key %llu", key);
  return session_->launch(stream_, found->second);
}

void Cuda::forgetRecordings() {
  dropRecord();
  for (const auto& [key, graph] : recordings_) (void)session_->destroyGraph(graph).ok();
  recordings_.clear();
}

// ---- ops. The rows of a step are those of the prompt class and then the generated ones: each class has kernels of its own.

static const void* offset(const void* base, long long elements, DType type) { return static_cast<const char*>(base) + elements * sizeOf(type); }
static void* offset(void* base, long long elements, DType type) { return static_cast<char*>(base) + elements * sizeOf(type); }

static Status checkClasses(int rows, int promptRows, const int* live) {
  if (promptRows >= 0 && promptRows <= rows && !(live && promptRows > 0)) return {};
  return Status::fail(Kind::internal, "a step of %d rows, %d of the prompt class%s", rows, promptRows, live ? ", and counted on the device" : "");
}

static Rows promptPart(Rows r) {
  r.rows = r.promptRows;
  r.sequences = r.promptSequences;
  return r;
}

// `start` still counts from the first row of the step: the generated kernels take each row by its sequence.
static Rows generatedPart(Rows r) {
  r.token += r.promptRows;
  r.position += r.promptRows;
  r.sequence += r.promptRows;
  r.rows -= r.promptRows;
  r.promptRows = r.promptSequences = 0;
  return r;
}

static Qkv generatedPart(Qkv q, int promptRows, DType type) {
  q.q = offset(q.q, (long long)promptRows * q.heads * q.cache.headSize, type);
  return q;
}

static Linear promptPart(Linear l) {
  l.rows = l.promptRows;
  if (l.qkv.q) l.step = promptPart(l.step);
  return l;
}

static Linear generatedPart(Linear l) {
  const long long skipped = l.promptRows;
  l.x = offset(l.x, skipped * l.xStride, l.type);
  if (l.residual) l.residual = offset(l.residual, skipped * l.matrix.n, l.residualType);
  if (l.qkv.q) {
    l.qkv = generatedPart(l.qkv, l.promptRows, l.type);
    l.step = generatedPart(l.step);
  } else {
    l.y = offset(l.y, skipped * l.yStride, l.outputType);
  }
  l.rows -= l.promptRows;
  l.promptRows = 0;
  return l;
}

Status Cuda::embed(const Embed& e) { return launch(kernels::planEmbed(e, limits_), e); }

Status Cuda::norm(const Norm& n) { return launch(kernels::planNorm(n, limits_), n); }

Status Cuda::linear(const Linear& l) {
  EWE_TRY(checkClasses(l.rows, l.promptRows, l.live));
  if (l.qkv.q && (l.step.rows != l.rows || l.step.promptRows != l.promptRows))
    return Status::fail(Kind::internal, "a projection of %d rows, %d of the prompt class, for a step of %d and %d", l.rows, l.promptRows, l.step.rows,
                        l.step.promptRows);
  if (l.promptRows > 0) {
    const Linear prompt = promptPart(l);
    EWE_TRY(launch(kernels::planLinear(prompt, limits_), prompt));
  }
  if (l.promptRows == l.rows) return {};
  const Linear generated = generatedPart(l);
  return launch(kernels::planLinearDecode(generated, limits_), generated);
}

Status Cuda::blockOut(const BlockOut& b) {
  Linear l = {};
  l.x = b.x;
  l.matrix = b.matrix;
  l.y = b.y;
  l.residual = b.y;
  l.live = b.live;
  l.rows = b.rows;
  l.promptRows = b.promptRows;
  l.xStride = b.matrix.k;
  l.yStride = b.matrix.n;
  l.type = b.type;
  l.outputType = l.residualType = b.residualType;
  return linear(l);
}

// The norms of a BlockIn into its scratch memory, where its products look for them.
Status Cuda::norms(const BlockIn& b) {
  const long long elements = (long long)b.step.rows * b.width;
  EWE_TRY(checkScratch(2 * size_t(elements) * size_t(sizeOf(b.type)), b.step.rows, 0));
  Norm n = {};
  n.x = b.x;
  n.weight = b.weight;
  n.bias = b.bias;
  n.y = b.scratch;
  n.weight2 = b.weight2;
  n.bias2 = b.bias2;
  n.y2 = b.weight2 ? offset(b.scratch, elements, b.type) : nullptr;
  n.live = b.step.live;
  n.rows = b.step.rows;
  n.width = b.width;
  n.eps = b.eps;
  n.residualType = b.residualType;
  n.type = b.type;
  return norm(n);
}

Status Cuda::blockIn(const BlockIn& b) {
  EWE_TRY(checkClasses(b.step.rows, b.step.promptRows, b.step.live));
  const long long skipped = b.step.promptRows;
  if (skipped > 0) {
    BlockIn prompt = b;
    prompt.step = promptPart(b.step);
    prompt.scratch = scratch_;
    EWE_TRY(norms(prompt));
    EWE_TRY(launch(kernels::planBlockIn(prompt, limits_), prompt));
  }
  if (b.step.promptRows == b.step.rows) return {};
  BlockIn generated = b;
  generated.x = offset(b.x, skipped * b.width, b.residualType);
  generated.qkv = generatedPart(b.qkv, b.step.promptRows, b.type);
  generated.hidden = offset(b.hidden, skipped * b.hiddenStride, b.type);
  generated.step = generatedPart(b.step);
  generated.scratch = scratch_;
  if (!kernels::normalisesItself(generated, limits_)) EWE_TRY(norms(generated));
  return launch(kernels::planBlockInDecode(generated, limits_), generated);
}

Status Cuda::attend(const Attend& a) {
  EWE_TRY(checkClasses(a.step.rows, a.step.promptRows, a.step.live));
  if (a.step.promptRows > 0) {
    Attend prompt = a;
    prompt.step = promptPart(a.step);
    EWE_TRY(launch(kernels::planAttend(prompt, limits_), prompt));
  }
  if (a.step.promptRows == a.step.rows) return {};
  Attend generated = a;
  const long long skipped = a.step.promptRows;
  generated.q = offset(a.q, skipped * a.heads * a.cache.headSize, a.type);
  generated.y = offset(a.y, skipped * a.yStride, a.type);
  generated.step = generatedPart(a.step);
  generated.scratch = scratch_;
  generated.counters = counters_;
  const int rows = generated.step.rows;
  const size_t scratch = size_t(kernels::attendScratchBytes(rows, a.heads, a.cache.headSize, a.maxPositions));
  EWE_TRY(checkScratch(scratch, std::min(rows, kernels::kAttendRows), a.heads));
  for (int first = 0; first < rows; first += kernels::kAttendRows) {
    generated.step.promptRows = first;
    generated.step.rows = std::min(rows, first + kernels::kAttendRows);
    EWE_TRY(launch(kernels::planAttendDecode(generated, limits_), generated));
  }
  return {};
}

Status Cuda::sample(const Sample& s) { return launch(kernels::planSample(s, limits_), s); }

Status Cuda::logProbs(const LogProbs& l) { return launch(kernels::planLogProbs(l, limits_), l); }

}  // namespace ewe::cuda

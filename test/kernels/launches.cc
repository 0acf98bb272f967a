#include "launches.h"

#include <atomic>
#include <cmath>
#include <map>

#include "../model/models.h"

namespace ewe::test {

static cuda::Card card(const char* name, int capability, int sms, int sharedPerBlock, int sharedPerSm, int threads, int blocks, double memory,
                       double l2) {
  return {name, size_t(memory * 1e9), capability, sms, sharedPerBlock * 1024, sharedPerSm * 1024, 65536, threads, blocks, size_t(l2 * 1e6)};
}

const std::vector<Family> kFamilies = {
    {card("V100", 70, 80, 96, 96, 2048, 32, 16, 6), 900, 125},       {card("T4", 75, 40, 64, 64, 1024, 16, 16, 4), 320, 65},
    {card("A10", 86, 72, 99, 100, 1536, 16, 24, 6), 600, 125},       {card("A100", 80, 108, 163, 164, 2048, 32, 80, 40), 2039, 312},
    {card("L4", 89, 58, 99, 100, 1536, 24, 24, 48), 300, 121},       {card("H100", 90, 132, 227, 228, 2048, 32, 80, 50), 3350, 989},
    {card("H200", 90, 132, 227, 228, 2048, 32, 141, 50), 4800, 989},
};

namespace {

constexpr int kPageSize = 64;

// Addresses far from anything that is mapped, aligned as a card's are, and far enough apart for every buffer here. After 2^23 they come again.
void* nextAddress() {
  static uintptr_t next = 0;
  next = (next + 1) % (1 << 23);
  return reinterpret_cast<void*>(uintptr_t(1) << 63 | next << 40);
}
template <class T>
T* addressOf() {
  return static_cast<T*>(nextAddress());
}

// Streams, events and graphs are not told apart here: a handle is any address but null.
template <class Handle>
Status handle(Handle* out) {
  *out = reinterpret_cast<Handle>(nextAddress());
  return {};
}

class ListingSession final : public cuda::Session {
 public:
  ListingSession(const cuda::Card& card, std::vector<Listed>& listed) : card_(card), listed_(listed) {}

  Status memory(size_t* free, size_t* total) override {
    *free = *total = card_.memory;
    return {};
  }
  Status allocate(void** memory, size_t) override { return handle(memory); }
  Status release(void*) override { return {}; }
  Status allocateHost(void** memory, size_t bytes) override {
    host_.emplace_back(bytes);
    *memory = host_.back().data();
    return {};
  }
  Status releaseHost(void*) override { return {}; }
  Status load(const cuda::Image&) override { return {}; }
  Status find(const char* name, int, cuda::Kernel* kernel) override {
    const auto found = names_.emplace(name, nullptr).first;
    if (!found->second) EWE_TRY(handle(&found->second));
    *kernel = found->second;
    return {};
  }
  Status createStream(cuda::Stream* stream) override { return handle(stream); }
  Status destroyStream(cuda::Stream) override { return {}; }
  Status synchronize(cuda::Stream) override { return {}; }
  Status createEvent(cuda::Event* event) override { return handle(event); }
  Status destroyEvent(cuda::Event) override { return {}; }
  Status record(cuda::Event, cuda::Stream) override { return {}; }
  Status wait(cuda::Stream, cuda::Event) override { return {}; }
  Status elapsed(cuda::Event, cuda::Event, float* milliseconds) override {
    *milliseconds = 0;
    return {};
  }
  Status copyIn(cuda::Stream, void*, const void*, size_t) override { return {}; }
  Status copyOut(cuda::Stream, void*, const void*, size_t) override { return {}; }
  Status copy(cuda::Stream, void*, const void*, size_t) override { return {}; }
  Status fill(cuda::Stream, void*, unsigned char, size_t) override { return {}; }
  Status launch(cuda::Stream, cuda::Kernel kernel, cuda::Dim grid, cuda::Dim block, int sharedBytes, const void*, size_t) override {
    for (const auto& [name, known] : names_)
      if (known == kernel) listed_.back().launches.push_back({name, grid, block, sharedBytes});
    return {};
  }
  Status beginCapture(cuda::Stream) override { return {}; }
  Status endCapture(cuda::Stream, cuda::Graph* graph) override { return handle(graph); }
  Status launch(cuda::Stream, cuda::Graph) override { return {}; }
  Status destroyGraph(cuda::Graph) override { return {}; }

 private:
  cuda::Card card_;
  std::vector<Listed>& listed_;
  std::map<std::string, cuda::Kernel> names_;
  std::vector<std::vector<unsigned char>> host_;
};

// Writes down each op before the backend plans it.
class CountedOps final : public Borrowed {
 public:
  CountedOps(Ops& inner, std::vector<Listed>& listed) : Borrowed(inner), listed_(listed) {}
  double context = 0;  // of each sequence of the step, for the cost of attention

  bool multiplies(DType weights) const override { return inner.multiplies(weights); }
  Status embed(const Embed& op) override { return begin("embed", cost(op)), inner.embed(op); }
  Status norm(const Norm& op) override { return begin("norm", cost(op)), inner.norm(op); }
  Status linear(const Linear& op) override { return begin("linear", cost(op)), inner.linear(op); }
  Status blockIn(const BlockIn& op) override { return begin("blockIn", cost(op)), inner.blockIn(op); }
  Status attend(const Attend& op) override {
    const double rows = op.step.rows, perSequence = rows / op.step.sequences;
    // The rows of a sequence are its last ones, and each sees what is before it.
    begin("attend", cost(op, rows * (context - (perSequence - 1) / 2), op.step.sequences * context));
    return inner.attend(op);
  }
  Status blockOut(const BlockOut& op) override { return begin("blockOut", cost(op)), inner.blockOut(op); }
  Status sample(const Sample& op) override { return begin("sample", cost(op)), inner.sample(op); }
  Status logProbs(const LogProbs& op) override { return begin("logProbs", cost(op)), inner.logProbs(op); }

 private:
  void begin(const char* op, Cost cost) { listed_.push_back({op, cost, {}}); }
  std::vector<Listed>& listed_;
};

}  // namespace

struct Listing::Parts {
  std::unique_ptr<Ops> device;
  std::unique_ptr<CountedOps> counted;
};

Listing::Listing(const cuda::Card& card) : parts_(std::make_unique<Parts>()) {
  Status status =
      cuda::Cuda::create(std::make_unique<ListingSession>(card, listed), card, kernels::pathOf(card.computeCapability), {}, parts_->device);
  if (!status.ok()) throw std::runtime_error(status.failure().message);
  parts_->counted = std::make_unique<CountedOps>(*parts_->device, listed);
}
Listing::~Listing() = default;
Ops& Listing::ops() { return *parts_->counted; }

// ---- a step of a model whose weights are nowhere

static Matrix matrixOf(int n, int k, DType type) {
  return {nextAddress(), addressOf<float>(), n, k, type, type == DType::int8 ? addressOf<float>() : nullptr};
}

static Model modelOf(const Spec& s, DType weights, Ops& ops) {
  const DType type = ops.activationType(weights);
  const int attention = s.heads * s.headSize, qkv = attention + 2 * s.kvHeads * s.headSize;
  Model m{};
  m.spec = s;
  m.weights.embed = nextAddress();
  m.weights.embedType = unquantisedType(ops, weights);
  for (int layer = 0; layer < s.layers; layer++) {
    LayerWeights w{};
    for (const float** vector : {&w.norm1Weight, &w.norm1Bias}) *vector = addressOf<float>();
    if (!s.sharedNorm)
      for (const float** vector : {&w.norm2Weight, &w.norm2Bias}) *vector = addressOf<float>();
    w.qkv = matrixOf(qkv, s.hidden, weights);
    w.up = matrixOf(s.inner, s.hidden, weights);
    if (s.parallel) {
      w.blockOut = matrixOf(s.hidden, attention + s.inner, weights);
    } else {
      w.out = matrixOf(s.hidden, attention, weights);
      w.down = matrixOf(s.hidden, s.inner, weights);
    }
    m.weights.layers.push_back(w);
  }
  m.weights.finalWeight = addressOf<float>();
  m.weights.finalBias = addressOf<float>();
  m.weights.head = matrixOf(s.vocab, s.hidden, m.weights.embedType);
  m.rotary = {addressOf<float>(), addressOf<float>()};
  const size_t block = ops.blockBytes(kPageSize, s.headSize, type);
  m.cache = {nextAddress(), type, kPageSize, s.kvHeads, s.headSize, (long long)block};
  return m;
}

EngineOptions optionsOf(const Spec& spec, DType weights, const StepShape& shape) {
  return {weights, spec.maxPositions, shape.sequences, kPageSize, 0, shape.sequences * shape.rows};
}

Status runStep(Listing& listing, const Spec& spec, DType weights, const StepShape& shape) {
  auto& ops = static_cast<CountedOps&>(listing.ops());
  const DType type = ops.activationType(weights);
  const int rows = shape.sequences * shape.rows;
  EWE_TRY(ops.reserve(limitsOf(spec, ops, optionsOf(spec, weights, shape))));
  const Model model = modelOf(spec, weights, ops);
  const Activations act = {nextAddress(), nextAddress(), nextAddress(), nextAddress(), addressOf<float>(), type, ops.residualType(weights)};
  ewe::Step step{};
  Rows& r = step.rows;
  for (const int** list : {&r.token, &r.position, &r.sequence, &r.start, &r.pages}) *list = addressOf<int>();
  r.rows = rows;
  r.sequences = shape.sequences;
  r.pagesStride = (spec.maxPositions + kPageSize - 1) / kPageSize;
  if (shape.prompt) {
    r.promptRows = rows;
    r.promptSequences = shape.sequences;
  } else {
    r.live = addressOf<int>();
  }
  step.maxPositions = shape.context;
  ops.context = shape.context;
  const std::atomic<bool> stop{false};
  EWE_TRY(forward(ops, model, act, step, stop, nullptr));
  EWE_TRY(head(ops, model, act, addressOf<int>(), shape.sequences, r.live, nullptr));
  Sample draw{};
  draw.logits = act.logits;
  draw.sampling = addressOf<Sampling>();
  draw.token = addressOf<int>();
  draw.logprob = addressOf<float>();
  draw.topToken = addressOf<int>();
  draw.topLogprob = addressOf<float>();
  draw.live = r.live;
  draw.stride = draw.vocab = spec.vocab;
  draw.rows = shape.sequences;
  draw.topStride = 20;
  EWE_TRY(ops.sample(draw));
  LogProbs known{};
  known.logits = act.logits;
  known.target = addressOf<int>();
  known.logprob = draw.logprob;
  known.topToken = draw.topToken;
  known.topLogprob = draw.topLogprob;
  known.stride = known.vocab = spec.vocab;
  known.rows = shape.sequences;
  known.top = 20;
  return shape.prompt ? ops.logProbs(known) : Status();
}

}  // namespace ewe::test

// The layout of all arenas: sums that hold, parts that do not overlap, and a runner that allocates exactly this.
#include "engine/layout.h"

#include <algorithm>

#include "../model/models.h"
#include "engine/runner.h"

namespace ewe::test {

static std::vector<EngineOptions> manyOptions() {
  return {{DType::float32, 64, 1, 16, 0, 32},
          {DType::bfloat16, 200, 5, 32, 0, 256},
          {DType::float16, 100, 64, 64, 17, 7},
          {DType::bfloat16, 1, 1, 16, 1, 1},
          {DType::int8, 100, 3, 16, 0, 40}};
}

static std::vector<Spec> manySpecs() {
  Spec sequential = smallSpec(), odd = smallSpec();
  sequential.parallel = false;
  odd.hidden = 42;
  odd.headSize = 21;
  odd.inner = 33;
  odd.sharedNorm = true;
  odd.rotarySize = 0;
  return {smallSpec(), sequential, odd};
}

static void sums(Run& run) {
  for (const Spec& s : manySpecs()) {
    for (const EngineOptions& o : manyOptions()) {
      const Layout l = layoutOf(s, run.ops, o);
      const WeightBytes w = weightBytes(s, run.ops, o.weights);
      run.expect(l.matrices == w.matrices && l.embedding == w.embedding && l.vectors == w.vectors, "the weights are those of weightBytes");
      run.expect(l.total() == w.total() + l.cache + l.x + l.a + l.q + l.wide + l.logits + l.rotary + l.step + l.scratch,
                 "the total is the sum of the parts");
      for (size_t part : {l.matrices, l.embedding, l.vectors, l.cacheLayer, l.x, l.a, l.q, l.wide, l.logits, l.rotary / 2, l.step}) {
        run.expect(part % 64 == 0, "each part begins at a multiple of 64");
      }
      const size_t rows = size_t(std::max({o.stepRows, o.maxBatch, 32})), activation = size_t(sizeOf(run.ops.activationType(o.weights)));
      const size_t pages = size_t(o.pages ? o.pages : o.maxBatch * ((o.maxContext + o.pageSize - 1) / o.pageSize) + 1);
      run.expect(pageCount(o) == int(pages), "full contexts for the whole batch, and a page for the prompt's rest");
      run.expect(l.cache == size_t(s.layers) * l.cacheLayer && l.cacheLayer >= pages * 2 * size_t(s.kvHeads) * l.cacheBlock,
                 "the cache has room for all pages");
      run.expect(l.cacheBlock >= size_t(o.pageSize) * size_t(s.headSize) * activation, "a block has room for its tokens");
      run.expect(l.a >= rows * size_t(s.hidden) * activation && l.x >= rows * size_t(s.hidden) * size_t(sizeOf(run.ops.residualType(o.weights))) &&
                     l.q >= rows * size_t(s.heads * s.headSize) * activation && l.wide >= rows * size_t(s.heads * s.headSize + s.inner) * activation,
                 "activations have room for all rows of a step");
      run.expect(l.logits >= size_t(std::max(o.maxBatch, 32)) * size_t(s.vocab) * 4, "logits have room for a decode step");
      run.expect(l.rotary >= 2 * size_t(o.maxContext) * size_t(s.rotarySize / 2) * 4, "the tables have room for all positions");
      run.expect(l.scratch == run.ops.scratchBytes(limitsOf(s, run.ops, o)), "the device's own part is what it asks for");
    }
  }
}

static void stepParts(Run& run) {
  for (const EngineOptions& o : manyOptions()) {
    const StepLayout l = stepLayoutOf(o);
    const size_t rows = size_t(std::max({o.stepRows, o.maxBatch, 32})), logits = size_t(std::max(o.maxBatch, 32)), batch = size_t(o.maxBatch);
    const std::vector<std::pair<size_t, size_t>> parts = {{l.token, rows * 4},
                                                          {l.position, rows * 4},
                                                          {l.sequence, rows * 4},
                                                          {l.start, (batch + 1) * 4},
                                                          {l.pages, batch * size_t(pagesPerSequence(o)) * 4},
                                                          {l.logitRows, logits * 4},
                                                          {l.sampling, logits * sizeof(Sampling)},
                                                          {l.target, logits * 4},
                                                          {l.history, logits * size_t(o.maxContext) * 4},
                                                          {l.adjustedId, logits * size_t(o.maxContext + 1024) * 4},
                                                          {l.adjustment, logits * size_t(o.maxContext + 1024) * 4},
                                                          {l.drawn, logits * 4},
                                                          {l.logprob, logits * 4},
                                                          {l.topToken, logits * kTopLogprobs * 4},
                                                          {l.topLogprob, logits * kTopLogprobs * 4}};
    size_t end = 0;
    for (size_t i = 0; i < parts.size(); i++) {
      run.expect(parts[i].first % 64 == 0 && parts[i].first >= end, "part " + std::to_string(i) + " lies behind the one before it");
      end = parts[i].first + parts[i].second;
      if (i == 6) run.expect(l.uploaded >= end && l.uploaded <= parts[7].first, "what is uploaded lies together");
    }
    run.expect(l.total >= end, "all parts lie inside");
  }
}

namespace {

struct Counted : Borrowed {
  std::vector<size_t> sizes;
  std::vector<size_t> reserved;
  int released = 0;
  using Borrowed::Borrowed;
  Status allocate(void** memory, size_t bytes) override {
    sizes.push_back(bytes);
    return Borrowed::allocate(memory, bytes);
  }
  void release(void* memory) override {
    released++;
    Borrowed::release(memory);
  }
  Status reserve(const Limits& limits) override {
    reserved.push_back(scratchBytes(limits));
    return Borrowed::reserve(limits);
  }
};

}  // namespace

static const std::atomic<bool> kNever{false};

static void exactly(Run& run) {
  if (!run.needs(DType::float32)) return;
  for (const Spec& s : manySpecs()) {
    const OwnModel model = randomModel(s, DType::float32, 1);
    for (const EngineOptions& o : manyOptions()) {
      Counted counted(run.ops);
      const Layout l = layoutOf(s, run.ops, o);
      {
        Runner runner(counted);
        Threads alone(1);
        run.check(runner.load(
            model.checkpoint, o, alone, [](uint64_t, uint64_t) {}, kNever));
        run.expect(counted.sizes == std::vector<size_t>{l.weights(), l.cache, l.activations(), l.rotary, l.step},
                   "the arenas have the sizes of the layout");
        run.expect(counted.reserved == std::vector<size_t>{l.scratch}, "the device's own part is reserved once, as laid out");
        run.expect(runner.layout().total() == l.total(), "the runner tells what it allocated");
      }
      run.expect(counted.released == 5, "all arenas are given back");
    }
  }
}

// What would write beyond a buffer is refused, whoever asks.
static void beyond(Run& run) {
  if (!run.needs(DType::float32)) return;
  const OwnModel model = randomModel(smallSpec(), DType::float32, 1);
  Runner runner(run.ops);
  Threads alone(1);
  run.check(runner.load(
      model.checkpoint, {DType::float32, 64, 2, 16, 0, 40}, alone, [](uint64_t, uint64_t) {}, kNever));
  const Ints tokens(200, 1);
  const std::vector<int> pages = {0, 1, 2, 3}, five = {0, 1, 2, 3, 4};
  auto refused = [&](const std::string& what, const Status& status) {
    run.expect(!status.ok() && status.failure().kind == Kind::internal, what + " was not refused");
  };
  refused("three sequences of two",
          runner.run({{tokens.data(), 0, 1, &pages, true}, {tokens.data(), 0, 1, &pages, true}, {tokens.data(), 0, 1, &pages, true}}, kNever));
  refused("41 rows of 40", runner.run({{tokens.data(), 0, 41, &pages, true}}, kNever));
  refused("41 rows of 40 in two pieces", runner.run({{tokens.data(), 0, 20, &pages, true}, {tokens.data(), 0, 21, &pages, true}}, kNever));
  refused("a position beyond the context", runner.run({{tokens.data(), 60, 5, &pages, true}}, kNever));
  refused("more pages than a context has", runner.run({{tokens.data(), 0, 1, &five, true}}, kNever));
  refused("33 logits of 32", runner.head(Ints(33, 0)));
  std::vector<Drawn> drawn;
  refused("33 draws of 32", runner.sample(std::vector<Sampling>(33, Sampling{}), true, drawn));
  run.check(runner.run({{tokens.data(), 0, 40, &pages, true}}, kNever));
  run.check(runner.head(Ints(32, 39)));
}

static Suite suite([](Cases& cases) {
  cases.once("layout/sums", sums);
  cases.once("layout/parts of a step", stepParts);
  cases.test("layout/the runner allocates exactly this", exactly);
  cases.once("layout/refuses what exceeds its buffers", beyond);
});

}  // namespace ewe::test

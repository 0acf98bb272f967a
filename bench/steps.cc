// Whole steps of the Dolly family on a card, with random weights: `ewe-cases --bench step --device cuda`. A prompt of 2048 tokens, and decode steps
// of 1, 8 and 64 sequences after 512 tokens each, by the engine's own runner: one upload, one recording, one download a step, as in service.
//
// Every weight matrix is a view of one small file of random numbers, row i beginning at number i: big models without big files, by the loader and the
// quantiser of every other model.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "../test/model/models.h"
#include "cuda/backend.h"
#include "engine/runner.h"

namespace ewe::test {
namespace {

struct Shape {
  const char* name;
  Spec spec;
};
const Shape kShapes[] = {
    {"dolly-v2-3b", {32, 2560, 32, 32, 80, 10240, 50280, 2048, 20, 10000, true, false, Activation::gelu, 1e-5f, 0}},
    {"dolly-v2-7b", {32, 4096, 32, 32, 128, 16384, 50280, 2048, 32, 10000, true, false, Activation::gelu, 1e-5f, 0}},
    {"dolly-v2-12b", {36, 5120, 40, 40, 128, 20480, 50280, 2048, 32, 10000, true, false, Activation::gelu, 1e-5f, 0}},
    {"dolly-v1-6b", {28, 4096, 16, 16, 256, 16384, 50400, 2048, 64, 10000, true, true, Activation::geluTanh, 1e-5f, 0}},
};

// The views. Scaled to 1 / sqrt(columns) by the file a matrix is taken from: one of the two.
Checkpoint viewsOf(const Spec& spec, const std::vector<std::unique_ptr<TempFile>>& files) {
  Checkpoint c{spec, {}, {}};
  for (const auto& file : files) c.files.push_back(file->path());
  for (int i = 0; i < kSlots; i++) {
    const Slot slot = Slot(i);
    const SlotShape shape = shapeOf(spec, slot);
    if (shape.rows == 0 || isBias(slot)) continue;
    for (int layer = 0; layer < (isLayered(slot) ? spec.layers : 1); layer++) {
      Placement p{slot, layer, shape.rows, shape.columns, {}, {0, 0, 1, 0, 1, int32_t(shape.rows)}};
      const bool vector = shape.columns == 1;
      p.tensors.push_back({vector ? 1 : 0, 2 * uint64_t(i * 31 + layer), DType::bfloat16, shape.rows, shape.columns, 1, 1, kSlotNames[i]});
      c.placements.push_back(std::move(p));
    }
  }
  return c;
}

std::vector<std::unique_ptr<TempFile>> randomFiles(const Spec& spec) {
  std::vector<std::unique_ptr<TempFile>> files;
  Random random(11);
  for (const bool vectors : {false, true}) {
    Floats numbers(size_t(spec.vocab) + 5 * size_t(spec.hidden) + 4096);
    for (float& x : numbers) x = float(vectors ? 1 + 0.1 * random.normal() : random.normal() / std::sqrt(double(spec.hidden)));
    std::vector<uint16_t> halves(numbers.size());
    narrow(numbers.data(), int64_t(numbers.size()), DType::bfloat16, halves.data());
    files.push_back(std::make_unique<TempFile>());
    files.back()->append(halves.data(), halves.size() * 2);
  }
  return files;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <class F>
double medianSeconds(int repeats, F step) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  for (int i = 0; i < repeats; i++) {
    const auto begin = Clock::now();
    step();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return median(times);
}

void steps(Run& run, const Shape& shape, DType weights) {
  run.compared++;
  if (!dynamic_cast<cuda::Cuda*>(&run.ops)) {
    run.figures = "only on a card (--device cuda)";
    return;
  }
  constexpr int kPrompt = 2048, kContext = 512, kMost = 64;
  const auto files = randomFiles(shape.spec);
  Threads team(Threads::available());
  const std::atomic<bool> never{false};
  const EngineOptions options{weights, kPrompt, kMost, 64, kMost * (kContext / 64 + 1) + kPrompt / 64, kPrompt};
  Runner runner(run.ops);
  run.check(runner.load(
      viewsOf(shape.spec, files), options, team, [](uint64_t, uint64_t) {}, never));

  Random random(5);
  Ints tokens(kPrompt);
  for (int& token : tokens) token = random.below(50000);
  std::vector<std::vector<int>> pages(kMost + 1);
  int next = 0;
  for (int i = 0; i <= kMost; i++) {
    for (int page = 0; page < (i < kMost ? kContext / 64 + 1 : kPrompt / 64); page++) pages[size_t(i)].push_back(next++);
  }
  std::vector<Drawn> drawn;
  Sampling sampling{};
  sampling.temperature = 1;
  sampling.topP = 0.92f;
  sampling.repetitionPenalty = 1;
  sampling.seed = 3;
  const double prompt = medianSeconds(5, [&] {
    run.check(runner.run({{tokens.data(), 0, kPrompt, &pages[kMost], true}}, never));
    run.check(runner.head({kPrompt - 1}));
    run.check(runner.sample({sampling}, false, drawn));
  });
  char line[200];
  std::snprintf(line, sizeof line, "prompt of %d in %.2f ms (%.0f tokens/s)", kPrompt, prompt * 1e3, kPrompt / prompt);
  run.figures = line;
  for (int i = 0; i < kMost; i++) run.check(runner.run({{tokens.data() + i, 0, kContext, &pages[size_t(i)], true}}, never));

  const Layout& layout = runner.layout();
  const double cachePerToken = 2.0 * shape.spec.layers * shape.spec.kvHeads * shape.spec.headSize * 2;
  for (const int batch : {1, 8, 64}) {
    std::vector<Piece> pieces;
    for (int i = 0; i < batch; i++) pieces.push_back({&tokens[size_t(i)], kContext, 1, &pages[size_t(i)], false});
    const std::vector<Sampling> rows(size_t(batch), sampling);
    for (int i = 0; i < 3; i++) run.check(runner.decode(pieces, rows, never, drawn));  // the first of them records
    const double seconds = medianSeconds(50, [&] { run.check(runner.decode(pieces, rows, never, drawn)); });
    const double bytes = double(layout.matrices) + layout.vectors + batch * (kContext + 1) * cachePerToken;
    std::snprintf(line, sizeof line, "; decode %d: %.3f ms (%.0f tokens/s, %.0f GB/s)", batch, seconds * 1e3, batch / seconds,
                  bytes / seconds * 1e-9);
    run.figures += line;
  }
}

const Suite suite([](Cases& cases) {
  for (const Shape& shape : kShapes) {
    for (const DType type : {DType::bfloat16, DType::float16, DType::int8}) {
      cases.bench(std::string("step/") + shape.name + " " + nameOf(type), [&shape, type](Run& run) { steps(run, shape, type); });
    }
  }
});

}  // namespace
}  // namespace ewe::test

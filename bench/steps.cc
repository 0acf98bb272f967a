// Whole steps of the Dolly family on a card: `ewe-cases --bench step --device cuda`. A prompt of 2048 tokens, and decode steps of 1, 8 and 64
// sequences after 512 tokens each, by the engine's own runner: one upload, one recording, one download a step, as in service.
//
// The weights are random and made on the card. The loader has a small file to read, of which every matrix is a view (row i begins at number i): from
// it come the vectors, the table and the scales of int8; what it would store in the matrices is left out.
#include <chrono>
#include <mutex>

#include "../test/model/models.h"
#include "card.h"
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

// To see that the bench runs: heads of the same size, but few of them, and few layers.
Spec reduced(Spec s) {
  s.layers = s.heads = s.kvHeads = 1;
  s.hidden = s.headSize;
  s.inner = 2 * s.hidden;
  s.vocab = 500;
  s.maxPositions = 512;
  return s;
}

// The card behind a device that keeps no matrix of what it is told to store, but remembers where it was to go.
class Unfilled : public Borrowed {
 public:
  using Borrowed::Borrowed;
  Status store(const Matrix& m, int row, int column, int, int, const float*, long long) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (row == 0 && column == 0) matrices.push_back(m);
    return {};
  }
  bool records() const override { return inner.records(); }
  bool recorded(unsigned long long key) const override { return inner.recorded(key); }
  Status record(unsigned long long key) override { return inner.record(key); }
  Status endRecord() override { return inner.endRecord(); }
  void dropRecord() override { inner.dropRecord(); }
  Status replay(unsigned long long key) override { return inner.replay(key); }
  std::vector<Matrix> matrices;

 private:
  std::mutex mutex_;
};

// The views. The numbers of matrices and those of vectors are in a file each.
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

// Seconds of a step that ends with a download, so that nothing of it is left to do.
template <class F>
double medianSeconds(int repeats, F step) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  for (int i = 0; i < repeats; i++) {
    const auto begin = Clock::now();
    step();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void steps(Run& run, const Shape& shape, DType weights) {
  cuda::Cuda* card = cardOf(run);
  if (!card || !run.needs(weights)) return;
  run.compared++;
  const Spec spec = run.small() ? reduced(shape.spec) : shape.spec;
  const int prompt = run.small() ? 64 : 2048, context = run.small() ? 20 : 512, most = run.small() ? 3 : 64;
  const auto files = randomFiles(spec);
  Threads team(Threads::available());
  const std::atomic<bool> never{false};
  const EngineOptions options{weights, prompt, most, 64, most * (context / 64 + 1) + prompt / 64, prompt};
  Unfilled unfilled(*card);
  Runner runner(unfilled);
  run.check(runner.load(
      viewsOf(spec, files), options, team, [](uint64_t, uint64_t) {}, never));
  for (const DType type : {run.ops.activationType(weights), DType::int8}) {
    Made made(run, *card, type, 1 / std::sqrt(double(spec.hidden)));
    for (const Matrix& m : unfilled.matrices)
      if (m.type == type) made.fill(const_cast<void*>(m.data), run.ops.matrixBytes(m.n, m.k, m.type));
  }

  Random random(5);
  Ints tokens(static_cast<size_t>(prompt));
  for (int& token : tokens) token = random.below(spec.vocab);
  std::vector<std::vector<int>> pages(size_t(most) + 1);
  int next = 0;
  for (int i = 0; i <= most; i++) {
    for (int page = 0; page < (i < most ? context / 64 + 1 : prompt / 64); page++) pages[size_t(i)].push_back(next++);
  }
  std::vector<Drawn> drawn;
  Sampling sampling{};
  sampling.temperature = 1;
  sampling.topP = 0.92f;
  sampling.repetitionPenalty = 1;
  sampling.seed = 3;
  const Layout& layout = runner.layout();
  double multiplied = 0;  // weights of the layers
  for (const Matrix& m : unfilled.matrices)
    if (m.n != spec.vocab) multiplied += double(m.n) * m.k;
  const double perPosition = 4.0 * spec.layers * spec.heads * spec.headSize;  // FLOPs of attention
  const double took = medianSeconds(run.small() ? 1 : 5, [&] {
    run.check(runner.run({{tokens.data(), 0, prompt, &pages[size_t(most)], true}}, never));
    run.check(runner.head({prompt - 1}));
    run.check(runner.sample({sampling}, false, drawn));
  });
  run.measured.push_back({", prompt of " + std::to_string(prompt),
                          took,
                          {double(layout.matrices), 2 * multiplied * prompt + perPosition * prompt * (prompt + 1.0) / 2}});
  for (int i = 0; i < most; i++) run.check(runner.run({{tokens.data() + i, 0, context, &pages[size_t(i)], true}}, never));

  const double cachePerToken = 2.0 * spec.layers * spec.kvHeads * spec.headSize * 2;
  for (const int batch : {1, 8, 64}) {
    if (batch > most) continue;
    std::vector<Piece> pieces;
    for (int i = 0; i < batch; i++) pieces.push_back({&tokens[size_t(i)], context, 1, &pages[size_t(i)], false});
    const std::vector<Sampling> rows(size_t(batch), sampling);
    for (int i = 0; i < 3; i++) run.check(runner.decode(pieces, rows, never, drawn));  // the first of them records
    const double seconds = medianSeconds(run.small() ? 1 : 50, [&] { run.check(runner.decode(pieces, rows, never, drawn)); });
    const double bytes = double(layout.matrices) + double(layout.vectors) + batch * (context + 1) * cachePerToken;
    const double flops = 2 * batch * (multiplied + double(spec.vocab) * spec.hidden) + batch * (context + 1) * perPosition;
    run.measured.push_back({", decode of " + std::to_string(batch) + " at " + std::to_string(context), seconds, {bytes, flops}});
  }
  for (const Measured& m : run.measured) {
    char line[200];
    std::snprintf(line, sizeof line, "%s%s: %.3f ms, %.0f GB/s, %.1f TFLOP/s", run.figures.empty() ? "" : "; ", m.what.c_str() + 2, m.seconds * 1e3,
                  m.cost.bytes / m.seconds * 1e-9, m.cost.flops / m.seconds * 1e-12);
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

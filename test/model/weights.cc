// Loading: what arrives on the device, element by element, what is refused, and what it costs.
#include "model/weights.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "models.h"
#include "ops/convert.h"

namespace ewe::test {

using Progress = std::function<void(uint64_t, uint64_t)>;
static const std::atomic<bool> kNever{false};

static Status load(
    Ops& ops, const Checkpoint& checkpoint, DType type, Loaded& out, const Progress& progress = [](uint64_t, uint64_t) {},
    const std::atomic<bool>& cancel = kNever) {
  Threads team(2);
  return loadWeights(checkpoint, type, ops, team, out.arena.data(), out.weights, progress, cancel);
}

static Loaded room(Run& run, const Checkpoint& checkpoint, DType type) {
  return {Buffer(run, weightBytes(checkpoint.spec, run.ops, type).total()), {}};
}

static Spec specFor(bool parallel, bool sharedNorm = false) {
  Spec s = smallSpec();
  s.hidden = 48;
  s.headSize = 24;
  s.inner = 50;  // groups of 16 that are not whole
  s.vocab = 37;
  s.parallel = parallel;
  s.sharedNorm = sharedNorm;
  return s;
}

// Stored numbers of a slot as the file has them, read by the plainest means.
static Floats stored(const OwnModel& model, Slot slot, int layer) {
  for (const Placement& p : model.checkpoint.placements) {
    if (p.slot != slot || p.layer != layer) continue;
    const StoredTensor& t = p.tensors[0];
    std::vector<char> bytes(size_t(t.rows * t.columns) * sizeOf(t.type));
    const int file = ::open(model.file->path().c_str(), O_RDONLY);
    const bool read = pread(file, bytes.data(), bytes.size(), off_t(t.offset)) == ssize_t(bytes.size());
    close(file);
    if (!read) throw std::runtime_error("can't read the test's own file");
    Floats values(size_t(t.rows * t.columns));
    widen(bytes.data(), t.type, int64_t(values.size()), values.data());
    return values;
  }
  return {};
}

static Floats roundedTo(Floats values, DType type) {
  for (float& value : values) value = float(rounded(value, type));
  return values;
}

static Floats fetched(Run& run, const Matrix& m) {
  Floats values(size_t(m.n) * size_t(m.k));
  run.check(run.ops.fetch(m, 0, m.n, values.data(), m.k));
  return values;
}

// Columns [first, first + count) of rows of `width`.
static Floats columnsOf(const Floats& values, int width, int first, int count) {
  Floats out;
  for (size_t row = 0; row < values.size() / size_t(width); row++) {
    out.insert(out.end(), values.begin() + long(row) * width + first, values.begin() + long(row) * width + first + count);
  }
  return out;
}

static void compareAll(Run& run, const OwnModel& model, const ewe::Weights& w, DType type) {
  const Spec& s = model.checkpoint.spec;
  const int attention = s.heads * s.headSize;
  auto vector = [&](const std::string& what, const float* data, const Floats& want) {
    if (want.empty()) return run.expect(data == nullptr, what + " is null where the model has none");
    run.same(what, run.read(data, want.size(), DType::float32), want);
  };
  run.expect(w.embedType == type, "the table has the dtype asked for");
  run.same("embed", run.read(w.embed, size_t(s.vocab) * size_t(s.hidden), type), roundedTo(stored(model, Slot::embed, 0), type));
  for (int i = 0; i < s.layers; i++) {
    const LayerWeights& layer = w.layers[size_t(i)];
    vector("norm1Weight", layer.norm1Weight, stored(model, Slot::norm1Weight, i));
    vector("norm1Bias", layer.norm1Bias, stored(model, Slot::norm1Bias, i));
    vector("norm2Weight", layer.norm2Weight, stored(model, Slot::norm2Weight, i));
    vector("norm2Bias", layer.norm2Bias, stored(model, Slot::norm2Bias, i));
    run.same("qkv", fetched(run, layer.qkv), roundedTo(stored(model, Slot::qkv, i), type));
    vector("qkvBias", layer.qkv.bias, stored(model, Slot::qkvBias, i));
    run.same("up", fetched(run, layer.up), roundedTo(stored(model, Slot::up, i), type));
    vector("upBias", layer.up.bias, stored(model, Slot::upBias, i));
    const Floats out = roundedTo(stored(model, Slot::out, i), type), down = roundedTo(stored(model, Slot::down, i), type);
    if (s.parallel) {
      const Floats both = fetched(run, layer.blockOut);
      run.same("out in blockOut", columnsOf(both, attention + s.inner, 0, attention), out);
      run.same("down in blockOut", columnsOf(both, attention + s.inner, attention, s.inner), down);
      Floats sum = stored(model, Slot::outBias, i);
      const Floats other = stored(model, Slot::downBias, i);
      for (size_t j = 0; j < sum.size(); j++) sum[j] += other[j];
      vector("sum of both biases", layer.blockOut.bias, sum);
    } else {
      run.same("out", fetched(run, layer.out), out);
      run.same("down", fetched(run, layer.down), down);
      vector("outBias", layer.out.bias, stored(model, Slot::outBias, i));
      vector("downBias", layer.down.bias, stored(model, Slot::downBias, i));
    }
  }
  vector("finalWeight", w.finalWeight, stored(model, Slot::finalWeight, 0));
  vector("finalBias", w.finalBias, stored(model, Slot::finalBias, 0));
  run.same("head", fetched(run, w.head), roundedTo(stored(model, Slot::head, 0), type));
  vector("headBias", w.head.bias, stored(model, Slot::headBias, 0));
}

static void everyPair(Run& run, DType file, DType memory) {
  if (!run.needs(memory)) return;
  for (const Spec& spec : {specFor(true), specFor(false), specFor(true, true)}) {
    const OwnModel model = randomModel(spec, file, 7);
    Loaded loaded = room(run, model.checkpoint, memory);
    run.check(load(run.ops, model.checkpoint, memory, loaded));
    compareAll(run, model, loaded.weights, memory);
  }
}

static void withoutBiases(Run& run) {
  if (!run.needs(DType::float32)) return;
  Random random(3);
  const OwnModel model = ownModel(specFor(true), DType::float32, false, [&](Slot, int, size_t count) {
    Floats values(count);
    for (float& value : values) value = float(random.normal());
    return values;
  });
  Loaded loaded = room(run, model.checkpoint, DType::float32);
  run.check(load(run.ops, model.checkpoint, DType::float32, loaded));
  compareAll(run, model, loaded.weights, DType::float32);
}

// Any layout in the file, and any order of rows: the table from three tensors, one of them transposed and one with gaps, at odd bytes, its rows
// shuffled.
static void anyLayout(Run& run, DType file) {
  if (!run.needs(DType::float32)) return;
  OwnModel model = randomModel(specFor(true), file, 9);
  const int vocab = model.checkpoint.spec.vocab, hidden = model.checkpoint.spec.hidden, size = sizeOf(file);
  Placement& head = placementOf(model.checkpoint, Slot::head);
  const Floats values = stored(model, Slot::head, 0);
  const int counts[3] = {11, 10, vocab - 21};
  std::vector<int> order(static_cast<size_t>(vocab));
  for (int i = 0; i < vocab; i++) order[size_t(i)] = i;
  Random random(4);
  for (int i = vocab; i-- > 1;) std::swap(order[size_t(i)], order[size_t(random.below(i + 1))]);

  head.tensors.clear();
  head.blocks.clear();
  model.file->append("\x55", 1);
  for (int part = 0, first = 0; part < 3; first += counts[part++]) {
    const int64_t rows = counts[part],
                  rowStride = part == 1   ? 1
                              : part == 2 ? 2 * hidden + 3
                                          : hidden,
                  columnStride = part == 1   ? rows
                                 : part == 2 ? 2
                                             : 1;
    std::vector<char> bytes(size_t((rows - 1) * rowStride + (hidden - 1) * columnStride + 1) * size_t(size), 0x7f);
    for (int64_t row = 0; row < rows; row++) {
      for (int64_t column = 0; column < hidden; column++) {
        const float value = values[size_t(order[size_t(first + row)]) * size_t(hidden) + size_t(column)];
        narrow(&value, 1, file, bytes.data() + (row * rowStride + column * columnStride) * size);
      }
      head.blocks.insert(head.blocks.end(), {part, int32_t(row), 1, order[size_t(first + row)], 1, 1});
    }
    head.tensors.push_back({0, model.file->size(), file, rows, hidden, rowStride, columnStride, "part" + std::to_string(part)});
    model.file->append(bytes.data(), bytes.size());
  }
  Loaded loaded = room(run, model.checkpoint, DType::float32);
  run.check(load(run.ops, model.checkpoint, DType::float32, loaded));
  run.same("head", fetched(run, loaded.weights.head), values);

  // The same rows through steps: even target rows from the first half of the source, odd ones from the second, in steps of 2 and 1.
  Placement& up = placementOf(model.checkpoint, Slot::up);
  const int inner = model.checkpoint.spec.inner;
  const Floats before = stored(model, Slot::up, 0);
  up.blocks = {0, 0, 1, 0, 2, inner / 2, 0, inner / 2, 1, 1, 2, inner / 2};
  run.check(load(run.ops, model.checkpoint, DType::float32, loaded));
  Floats want(before.size());
  for (int row = 0; row < inner; row++) {
    const int source = row % 2 ? inner / 2 + row / 2 : row / 2;
    std::copy_n(before.begin() + source * hidden, hidden, want.begin() + row * hidden);
  }
  run.same("up", fetched(run, loaded.weights.layers[0].up), want);
  up.blocks = {0, 0, 2, 0, 1, inner / 2, 0, 1, 2, inner / 2, 1, inner / 2};
  run.check(load(run.ops, model.checkpoint, DType::float32, loaded));
  for (int row = 0; row < inner; row++) {
    const int source = row < inner / 2 ? 2 * row : 2 * (row - inner / 2) + 1;
    std::copy_n(before.begin() + source * hidden, hidden, want.begin() + row * hidden);
  }
  run.same("up by source steps", fetched(run, loaded.weights.layers[0].up), want);
}

namespace {

// Counts what reaches the device.
struct Watched : Borrowed {
  std::atomic<int> stores{0}, uploads{0};
  std::function<void()> atStore;
  using Borrowed::Borrowed;
  Status store(const Matrix& m, int row, int column, int rows, int columns, const float* source, long long stride) override {
    stores++;
    if (atStore) atStore();
    return Borrowed::store(m, row, column, rows, columns, source, stride);
  }
  Status upload(void* device, const void* host, size_t bytes) override {
    uploads++;
    return Borrowed::upload(device, host, bytes);
  }
};

}  // namespace

// A wider model, so that a matrix takes several pieces.
static Spec widerSpec() {
  Spec s = smallSpec();
  s.hidden = 1024;
  s.headSize = 512;
  s.inner = 1500;
  s.vocab = 300;
  s.layers = 1;
  return s;
}

static OwnModel widerModel() {
  return ownModel(widerSpec(), DType::bfloat16, false, [](Slot, int, size_t count) { return Floats(count, 1.5f); });
}

static void cancelling(Run& run) {
  if (!run.needs(DType::float32)) return;
  const OwnModel model = widerModel();
  Loaded loaded = room(run, model.checkpoint, DType::float32);
  std::atomic<bool> cancel{true};
  Watched watched(run.ops);
  auto aborted = [&](const Status& status) { return !status.ok() && status.failure().kind == Kind::aborted; };
  run.expect(aborted(load(
                 watched, model.checkpoint, DType::float32, loaded, [](uint64_t, uint64_t) {}, cancel)),
             "cancelled before it began");
  run.expect(watched.stores == 0, "nothing was stored");

  run.check(load(watched, model.checkpoint, DType::float32, loaded));
  const int whole = watched.stores;
  cancel = false;
  watched.stores = 0;
  watched.atStore = [&] { cancel = watched.stores >= 5; };
  run.expect(aborted(load(
                 watched, model.checkpoint, DType::float32, loaded, [](uint64_t, uint64_t) {}, cancel)),
             "cancelled on the way");
  // Each of the two threads ends the piece it is at.
  run.expect(watched.stores <= 6 && whole > 15,
             std::to_string(watched.stores) + " of " + std::to_string(whole) + " pieces were stored after a cancel at 5");

  cancel = false;
  watched.atStore = nullptr;
  run.expect(aborted(load(
                 watched, model.checkpoint, DType::float32, loaded, [&](uint64_t done, uint64_t total) { cancel = done == total; }, cancel)),
             "cancelled when all was there");
}

static void progress(Run& run) {
  if (!run.needs(DType::bfloat16)) return;
  for (DType file : {DType::float32, DType::float16}) {
    const OwnModel model = randomModel(specFor(false), file, 2);
    Loaded loaded = room(run, model.checkpoint, DType::bfloat16);
    uint64_t last = 0, end = 0;
    size_t reports = 0, wrong = 0;
    run.check(load(run.ops, model.checkpoint, DType::bfloat16, loaded, [&](uint64_t done, uint64_t total) {
      if (done <= last || (end && total != end) || done > total) wrong++;
      last = done;
      end = total;
      reports++;
    }));
    run.expect(wrong == 0, "progress rises, towards one total");
    run.expect(last == end && end == model.file->size(), "it ends with all bytes of the file");
    run.expect(reports == model.checkpoint.placements.size(), "one report for each slot");
  }
}

// The weights lie in the arena, at multiples of 64, and none overlaps another.
static void arena(Run& run) {
  for (DType type : {DType::float32, DType::bfloat16, DType::int8}) {
    if (!run.needs(type)) continue;
    for (bool parallel : {true, false}) {
      const OwnModel model = randomModel(specFor(parallel), DType::float32, 5);
      const Spec& s = model.checkpoint.spec;
      Loaded loaded = room(run, model.checkpoint, type);
      run.check(load(run.ops, model.checkpoint, type, loaded));
      std::vector<std::pair<const char*, size_t>> parts;
      auto add = [&](const void* data, size_t bytes) {
        if (data) parts.push_back({static_cast<const char*>(data), bytes});
      };
      auto matrix = [&](const Matrix& m) {
        if (!m.data) return;
        add(m.data, run.ops.matrixBytes(m.n, m.k, m.type));
        add(m.scale, size_t(m.n) * 4);
        add(m.bias, size_t(m.n) * 4);
      };
      const ewe::Weights& w = loaded.weights;
      add(w.embed, size_t(s.vocab) * size_t(s.hidden) * size_t(sizeOf(w.embedType)));
      for (const LayerWeights& layer : w.layers) {
        for (const float* v : {layer.norm1Weight, layer.norm1Bias, layer.norm2Weight, layer.norm2Bias}) add(v, size_t(s.hidden) * 4);
        for (const Matrix* m : {&layer.qkv, &layer.up, &layer.out, &layer.down, &layer.blockOut}) matrix(*m);
      }
      for (const float* v : {w.finalWeight, w.finalBias}) add(v, size_t(s.hidden) * 4);
      matrix(w.head);
      std::sort(parts.begin(), parts.end());
      const char *begin = static_cast<const char*>(loaded.arena.data()), *end = begin + loaded.arena.bytes();
      bool apart = true, aligned = true;
      for (const auto& [data, bytes] : parts) {
        apart = apart && data >= begin && data + bytes <= end;
        begin = data + bytes;
        aligned = aligned && reinterpret_cast<uintptr_t>(data) % 64 == 0;
      }
      run.expect(parts.size() > 20 && apart, "the weights lie one after the other in the arena");
      run.expect(aligned, "each begins at a multiple of 64");
    }
  }
}

static Suite suite([](Cases& cases) {
  for (DType file : {DType::float32, DType::float16, DType::bfloat16}) {
    for (DType memory : {DType::float32, DType::bfloat16, DType::float16}) {
      cases.test(std::string("weights/") + nameOf(file) + " file as " + nameOf(memory), [=](Run& run) { everyPair(run, file, memory); });
    }
    cases.test(std::string("weights/any layout of a ") + nameOf(file) + " file", [=](Run& run) { anyLayout(run, file); });
  }
  cases.test("weights/without biases", withoutBiases);
  cases.test("weights/cancelling", cancelling);
  cases.test("weights/progress", progress);
  cases.test("weights/arena", arena);
});

}  // namespace ewe::test

// Loading with int8 weights: each number and scale on the device against the definition, whatever the order and layout of the rows in the file; what
// is quantised and what is not; what is refused.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "cpu/cpu.h"
#include "model/weights.h"
#include "models.h"

namespace ewe::test {

static const std::atomic<bool> kNever{false};

static Status load(Run& run, const Checkpoint& checkpoint, Loaded& out, int threads = 2) {
  Threads team(threads);
  return loadWeights(
      checkpoint, DType::int8, run.ops, team, out.arena.data(), out.weights, [](uint64_t, uint64_t) {}, kNever);
}

static Loaded room(Run& run, const Spec& spec) { return {Buffer(run, weightBytes(spec, run.ops, DType::int8).total()), {}}; }

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

namespace {

// Every slot's numbers, kept as they are written into the file.
struct Known {
  OwnModel model;
  std::map<std::pair<Slot, int>, Floats> values;

  Known(const Spec& spec, DType type) {
    Random random(11);
    model = ownModel(spec, type, true, [&](Slot slot, int layer, size_t count) {
      Floats& all = values[{slot, layer}];
      // Rows of many sizes, the second half of out and down's parts far apart, and a row of zeros in each matrix.
      const size_t columns = size_t(shapeOf(spec, slot).columns);
      for (size_t i = 0; i < count; i++) {
        const size_t row = i / columns;
        const double size = row == 3 && columns > 1 ? 0 : std::pow(10.0, int(row % 5) - 3) * (slot == Slot::out && row % 2 ? 20 : 1);
        all.push_back(float(rounded(size * random.normal(), type)));
      }
      return all;
    });
  }
  const Floats& operator()(Slot slot, int layer = 0) const { return values.at({slot, layer}); }
};

}  // namespace

// What must be on the device for rows [n, k]: numbers times scales, and the scales.
static void compareMatrix(Run& run, const std::string& what, const Matrix& m, const Floats& rows) {
  Floats scales, want;
  for (int row = 0; row < m.n; row++) {
    const float* x = &rows[size_t(row) * size_t(m.k)];
    float largest = 0;
    for (int i = 0; i < m.k; i++) largest = std::max(largest, std::fabs(x[i]));
    const float scale = largest > 0 ? largest / 127 : 1;
    scales.push_back(scale);
    for (int i = 0; i < m.k; i++) want.push_back(float(std::nearbyint(double(x[i] / scale)) + 0.0) * scale);
  }
  run.expect(m.type == DType::int8 && m.scale, what + " is int8 with scales");
  run.same(what + ", scales", run.read(m.scale, size_t(m.n), DType::float32), scales);
  Floats got(want.size());
  run.check(run.ops.fetch(m, 0, m.n, got.data(), m.k));
  run.same(what, got, want);
  run.near(what, got, Doubles(want.begin(), want.end()), Doubles(want.size(), 0));  // for the other ways to run this
}

// Rows of a beside rows of b.
static Floats beside(const Floats& a, const Floats& b, int rows) {
  Floats out;
  for (size_t row = 0; row < size_t(rows); row++) {
    for (const Floats* part : {&a, &b}) {
      const size_t width = part->size() / size_t(rows);
      out.insert(out.end(), part->begin() + long(row * width), part->begin() + long((row + 1) * width));
    }
  }
  return out;
}

static void everyNumber(Run& run, DType file) {
  if (!run.needs(DType::int8)) return;
  for (const Spec& s : {specFor(true), specFor(false), specFor(true, true)}) {
    const Known known(s, file);
    Loaded loaded = room(run, s);
    run.check(load(run, known.model.checkpoint, loaded));
    const ewe::Weights& w = loaded.weights;
    for (int i = 0; i < s.layers; i++) {
      const LayerWeights& layer = w.layers[size_t(i)];
      compareMatrix(run, "qkv", layer.qkv, known(Slot::qkv, i));
      compareMatrix(run, "up", layer.up, known(Slot::up, i));
      if (s.parallel) {
        compareMatrix(run, "out and down with one scale for both", layer.blockOut, beside(known(Slot::out, i), known(Slot::down, i), s.hidden));
      } else {
        compareMatrix(run, "out", layer.out, known(Slot::out, i));
        compareMatrix(run, "down", layer.down, known(Slot::down, i));
      }
      run.same("upBias", run.read(layer.up.bias, size_t(s.inner), DType::float32), known(Slot::upBias, i));
      run.same("norm1Weight", run.read(layer.norm1Weight, size_t(s.hidden), DType::float32), known(Slot::norm1Weight, i));
    }
    // The table and the head in the 16-bit type.
    const DType narrow = run.ops.activationType(DType::int8) == DType::bfloat16 ? DType::bfloat16 : DType::float16;
    auto narrowed = [&](Floats values) {
      for (float& value : values) value = float(rounded(value, narrow));
      return values;
    };
    run.expect(w.embedType == narrow && w.head.type == narrow && !w.head.scale, "table and head have 16 bits");
    run.same("embed", run.read(w.embed, known(Slot::embed).size(), narrow), narrowed(known(Slot::embed)));
    Floats head(known(Slot::head).size());
    run.check(run.ops.fetch(w.head, 0, s.vocab, head.data(), s.hidden));
    run.same("head", head, narrowed(known(Slot::head)));
  }
}

// The same matrices from tensors that are transposed, cut and shuffled.
static void anyLayout(Run& run) {
  if (!run.needs(DType::int8)) return;
  const Spec s = specFor(true);
  Known known(s, DType::float32);
  Random random(12);
  for (Slot slot : {Slot::qkv, Slot::out, Slot::down}) {
    Placement& p = placementOf(known.model.checkpoint, slot);
    const Floats& values = known(slot);
    const int64_t rows = p.rows, columns = p.columns, first = rows / 3;
    Ints order(static_cast<size_t>(rows));
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[size_t(random.below(int(i) + 1))]);
    p.tensors.clear();
    p.blocks.clear();
    for (int part = 0; part < 2; part++) {
      const int64_t begin = part ? first : 0, count = part ? rows - first : first;
      Floats transposed(size_t(count * columns));
      for (int64_t row = 0; row < count; row++) {
        for (int64_t i = 0; i < columns; i++) transposed[size_t(i * count + row)] = values[size_t(order[size_t(begin + row)] * columns + i)];
        p.blocks.insert(p.blocks.end(), {part, int32_t(row), 1, order[size_t(begin + row)], 1, 1});
      }
      p.tensors.push_back({0, known.model.file->size(), DType::float32, count, columns, 1, count, "part"});
      known.model.file->append(transposed.data(), transposed.size() * sizeof(float));
    }
  }
  Loaded loaded = room(run, s);
  run.check(load(run, known.model.checkpoint, loaded));
  compareMatrix(run, "qkv", loaded.weights.layers[0].qkv, known(Slot::qkv));
  compareMatrix(run, "blockOut", loaded.weights.layers[0].blockOut, beside(known(Slot::out), known(Slot::down), s.hidden));
}

// Matrices of several pieces, by any number of threads.
static void anyThreads(Run& run) {
  if (!run.needs(DType::int8)) return;
  Spec s = smallSpec();
  s.layers = 1;
  s.hidden = 512;
  s.headSize = 256;
  s.inner = 2500;
  const Known known(s, DType::bfloat16);
  std::vector<char> first;
  for (int threads : {1, 2, 3}) {
    Loaded loaded = room(run, s);
    run.check(load(run, known.model.checkpoint, loaded, threads));
    std::vector<char> bytes(loaded.arena.bytes());
    run.check(run.ops.download(bytes.data(), loaded.arena.data(), bytes.size()));
    if (first.empty()) first = bytes;
    run.expect(bytes == first, std::to_string(threads) + " threads leave the same bytes");
  }
}

// The reference checkpoints have the same whole numbers and scales on every device: those of the CPU's plainest code.
static void asOnTheCpu(Run& run, const std::string& name) {
  if (!run.needs(DType::int8)) return;
  Threads alone(1);
  Ops* made = nullptr;
  run.check(createCpu("plain", alone, &made));
  const std::unique_ptr<Ops> cpu(made);
  Run onCpu(*cpu, false);
  const Checkpoint checkpoint = fixture(name);
  Loaded here = room(run, checkpoint.spec), there = room(onCpu, checkpoint.spec);
  run.check(load(run, checkpoint, here));
  run.check(load(onCpu, checkpoint, there));
  for (size_t i = 0; i < here.weights.layers.size(); i++) {
    for (Matrix LayerWeights::*member : {&LayerWeights::qkv, &LayerWeights::up, &LayerWeights::out, &LayerWeights::down, &LayerWeights::blockOut}) {
      const Matrix &m = here.weights.layers[i].*member, &other = there.weights.layers[i].*member;
      run.expect(!m.data == !other.data && m.n == other.n && m.k == other.k, "a matrix that one device has and the other does not");
      if (!m.data) continue;
      const std::string what = "matrix " + std::to_string(m.n) + "x" + std::to_string(m.k) + " of layer " + std::to_string(i);
      run.expect(m.type == DType::int8 && other.type == DType::int8, what + " is int8");
      run.same(what + ", scales", run.read(m.scale, size_t(m.n), DType::float32), onCpu.read(other.scale, size_t(m.n), DType::float32));
      Floats got(size_t(m.n) * size_t(m.k)), want(got.size());
      run.check(run.ops.fetch(m, 0, m.n, got.data(), m.k));
      run.check(cpu->fetch(other, 0, m.n, want.data(), m.k));
      run.same(what, got, want);
    }
  }
}

// A byte for each weight of the layers, four for each of their outputs, two for those of table and head; all in one sum with the vectors.
static void size(Run& run) {
  if (!run.needs(DType::int8)) return;
  Spec s = smallSpec();
  s.hidden = 512;
  s.headSize = 256;
  s.inner = 2048;
  s.vocab = 1024;
  const WeightBytes bytes = weightBytes(s, run.ops, DType::int8), half = weightBytes(s, run.ops, DType::float16);
  const size_t h = size_t(s.hidden), weights = size_t(s.layers) * h * (4 * h + 2 * size_t(s.inner)),
               scales = size_t(s.layers) * (3 * h + size_t(s.inner) + h);
  run.expect(bytes.matrices == weights + 4 * scales + 2 * size_t(s.vocab) * h, std::to_string(bytes.matrices) + " bytes of matrices");
  run.expect(bytes.embedding == half.embedding && bytes.vectors == half.vectors, "the rest is that of 16 bits");
}

static void notFinite(Run& run) {
  if (!run.needs(DType::int8)) return;
  const Spec s = specFor(true);
  for (auto [slot, layer] : {std::pair(Slot::qkv, 0), std::pair(Slot::up, 1), std::pair(Slot::out, 0), std::pair(Slot::down, 1)}) {
    for (float bad : {INFINITY, -INFINITY, float(NAN)}) {
      const int columns = int(shapeOf(s, slot).columns);
      const OwnModel model = ownModel(s, DType::bfloat16, true, [&, slot = slot, layer = layer](Slot other, int at, size_t count) {
        Floats values(count, 0.5f);
        if (other == slot && at == layer) values[size_t(17 * columns + columns - 1)] = bad;
        return values;
      });
      Loaded loaded = room(run, s);
      const Status status = load(run, model.checkpoint, loaded);
      run.expect(!status.ok(), "it was not refused");
      if (status.ok()) continue;
      const Failure& failure = status.failure();
      const std::string message = failure.message, tensor = kSlotNames[int(slot)] + std::to_string(layer);
      run.expect(failure.kind == Kind::checkpoint && failure.tensor == tensor, "the error names the tensor: " + std::string(failure.tensor));
      run.expect(message.find("row 17 ") != std::string::npos, "and its row: " + message);
      run.expect(message.find(std::isnan(bad) ? "a NaN" : "an infinity") != std::string::npos, "and what is there: " + message);
    }
  }
}

static Suite suite([](Cases& cases) {
  for (DType file : {DType::float32, DType::float16, DType::bfloat16})
    cases.test(std::string("quantised/every number of a ") + nameOf(file) + " file", [=](Run& run) { everyNumber(run, file); });
  for (const char* name : {"neox-parallel", "neox-sequential", "neox-no-bias-tied", "neox-head80", "neox-head128", "gptj", "gptj-head256"})
    cases.test(std::string("quantised/numbers of the CPU, ") + name, [=](Run& run) { asOnTheCpu(run, name); });
  cases.test("quantised/any layout in the file", anyLayout);
  cases.test("quantised/any number of threads", anyThreads);
  cases.test("quantised/size", size);
  cases.test("quantised/numbers that are not finite are refused", notFinite);
});

}  // namespace ewe::test

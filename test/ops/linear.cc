#include "linear.h"

#include <algorithm>
#include <utility>

namespace ewe::test {
namespace {  // other files of cases have structs of the same names

struct Shape {
  int rows, n, k;
  Activation activation = Activation::none;
  bool bias = true, residual = false, inPlace = false;
  int extraStride = 0;
  bool narrow = false;  // 16-bit output
};

// An odd k needs padding in the device's scratch memory, where an earlier op may have left anything.
static void leaveNaNs(Run& run, int rows, int k) {
  const Weights w = run.weights(Floats(size_t(k) - 2, 1.f), 1, k - 2, DType::bfloat16, {});
  const Array x = run.array(Floats(size_t(rows) * k, NAN), DType::bfloat16), y = run.zeros(rows, DType::float32);
  run.check(run.ops.linear(linearOf(x, w, y, rows)));
}

// The classes that rows can be of: all generated, all of a prompt, and both in one step.
static std::vector<int> promptRowsOf(int rows) {
  std::vector<int> counts = {0, rows};
  if (rows > 1) counts.push_back((rows + 1) / 2);
  return counts;
}

// fp32 accumulation of k products in some order is off by at most (k + 1) units times the sum of their magnitudes.
static void linear(Run& run, DType weightType, const Shape& s) {
  if (!run.needs(weightType)) return;
  Random random(3);
  const DType type = inputOf(run, weightType), output = s.narrow ? narrowOf(type) : DType::float32;
  if (type == DType::bfloat16) run.bfloat16Products();
  run.check(run.ops.reserve(limitsOf(s.rows, s.k, type)));
  const int xStride = s.k + s.extraStride, yStride = s.n + s.extraStride;
  const Weights w = run.normalWeights(random, s.n, s.k, weightType, s.bias);
  const Array x = run.normals(random, size_t(s.rows) * xStride, type);
  const Array residual = run.normals(random, size_t(s.rows) * s.n, DType::float32);

  Doubles want, bound;
  for (int row = 0; row < s.rows; row++) {
    for (int i = 0; i < yStride; i++) {
      if (i >= s.n) {  // between the rows nothing is written
        want.push_back(rounded(-7, output));
        bound.push_back(0);
        continue;
      }
      double sum = s.bias ? w.bias.host[i] : 0, magnitude = std::fabs(sum);
      for (int j = 0; j < s.k; j++) {
        const double product = w.at(i, j) * x.host[size_t(row) * xStride + j];
        sum += product;
        magnitude += std::fabs(product);
      }
      double value = activated(sum, s.activation);
      double error = (s.k + 2) * kUnit * magnitude * slopeOf(s.activation) + activationError(sum, s.activation);
      if (s.residual || s.inPlace) {
        value += residual.host[size_t(row) * s.n + i];
        error += kUnit * (std::fabs(value) + error);
      }
      if (output != DType::float32) error += unitOf(output) * (std::fabs(value) + error);
      want.push_back(value);
      bound.push_back(error);
    }
  }

  if (type == DType::bfloat16 && s.k % 2 && s.k > 2) leaveNaNs(run, s.rows, s.k);
  for (int promptRows : promptRowsOf(s.rows)) {
    const Array y = run.array(s.inPlace ? residual.host : Floats(size_t(s.rows) * yStride, -7.f), output);
    Linear l = linearOf(x, w, y, s.rows, promptRows);
    l.residual = s.inPlace ? y.data() : s.residual ? residual.data() : nullptr;
    l.xStride = xStride;
    l.yStride = yStride;
    l.activation = s.activation;
    l.outputType = output;
    run.check(run.ops.linear(l));
    run.near("y with " + std::to_string(promptRows) + " prompt rows", run.read(y.data(), want.size(), output), want, bound);
  }
}

// The bits of a row of one class do not depend on how many rows come with it, nor on their class.
static void sameBits(Run& run, DType weightType, int n, int k) {
  if (!run.needs(weightType)) return;
  Random random(4);
  constexpr int kRows = 100;
  const DType type = inputOf(run, weightType);
  if (type == DType::bfloat16) run.bfloat16Products();
  run.check(run.ops.reserve(limitsOf(kRows, k, type)));
  const Weights w = run.normalWeights(random, n, k, weightType, true);
  const Array x = run.normals(random, size_t(kRows) * k, type);
  const Array y = run.zeros(size_t(kRows) * n, DType::float32);
  Linear l = linearOf(x, w, y, kRows);
  l.activation = Activation::gelu;
  Floats ofClass[2];
  for (int prompt = 0; prompt < 2; prompt++) {
    Floats& all = ofClass[prompt];
    for (int rows : {100, 33, 17, 12, 7, 5, 2, 1}) {
      const int taken = std::min(4, kRows / rows) * rows;
      for (int first = 0; first < taken; first += rows) {
        l.x = static_cast<const char*>(x.data()) + size_t(first) * k * sizeOf(type);
        l.y = static_cast<char*>(y.data()) + size_t(first) * n * 4;
        l.rows = rows;
        l.promptRows = prompt ? rows : 0;
        run.check(run.ops.linear(l));
      }
      const Floats got = run.read(y.data(), size_t(taken) * n, DType::float32);
      if (all.empty()) all = got;
      run.same((prompt ? "prompt rows taken " : "generated rows taken ") + std::to_string(rows) + " at a time", got,
               Floats(all.begin(), all.begin() + got.size()));
    }
    run.near("y", all, Doubles(all.begin(), all.end()), Doubles(all.size(), 0));  // for the other threads and sets
  }
  l.x = x.data();
  l.y = y.data();
  l.rows = kRows;
  for (int promptRows : {1, 63, 99}) {
    l.promptRows = promptRows;
    run.check(run.ops.linear(l));
    Floats want(ofClass[1].begin(), ofClass[1].begin() + promptRows * n);
    want.insert(want.end(), ofClass[0].begin() + promptRows * n, ofClass[0].end());
    run.same(std::to_string(promptRows) + " prompt rows before generated ones", run.read(y.data(), want.size(), DType::float32), want);
  }
}

// Nor on the tile that a device chooses for so many rows: with so many outputs, cards choose each of their tiles for some of these.
static void anyTile(Run& run, DType weightType) {
  if (!run.needs(weightType)) return;
  Random random(9);
  constexpr int kRows = 588, kOutputs = 4240, kInputs = 40;
  const DType type = inputOf(run, weightType);
  if (type == DType::bfloat16) run.bfloat16Products();
  run.check(run.ops.reserve(limitsOf(kRows, kInputs, type)));
  const Weights w = run.normalWeights(random, kOutputs, kInputs, weightType, true);
  const Array x = run.normals(random, size_t(kRows) * kInputs, type), y = run.zeros(size_t(kRows) * kOutputs, DType::float32);
  Linear l = linearOf(x, w, y, kRows);
  for (bool prompt : {false, true}) {
    Floats all;
    for (int rows : {kRows, 204, 100, 64, 10}) {
      l.rows = rows;
      l.promptRows = prompt ? rows : 0;
      run.check(run.ops.linear(l));
      const Floats got = run.read(y.data(), size_t(rows) * kOutputs, DType::float32);
      if (all.empty()) all = got;
      run.same(std::to_string(rows) + (prompt ? " prompt rows" : " generated rows"), got, Floats(all.begin(), all.begin() + got.size()));
    }
    run.near("y", all, Doubles(all.begin(), all.end()), Doubles(all.size(), 0));  // for the other ways to run this
  }
}

// Of a recorded step only the first *live rows are there.
static void live(Run& run, DType weightType, int rows, int n, int k) {
  if (!run.needsRecordings() || !run.needs(weightType)) return;
  Random random(10);
  const DType type = inputOf(run, weightType);
  if (type == DType::bfloat16) run.bfloat16Products();
  run.check(run.ops.reserve(limitsOf(rows, k, type)));
  const Weights w = run.normalWeights(random, n, k, weightType, true);
  const Array x = run.normals(random, size_t(rows) * k, type);
  Floats all;
  for (int count : {rows, rows - 1, rows / 2, 1}) {
    const Array y = run.array(Floats(size_t(rows) * n, -7.f), DType::float32);
    const IntArray many = run.ints({count});
    Linear l = linearOf(x, w, y, rows);
    l.live = many.data();
    run.check(run.ops.linear(l));
    const Floats got = run.read(y.data(), size_t(rows) * n, DType::float32);
    if (all.empty()) all = got;
    Floats want = all;
    std::fill(want.begin() + size_t(count) * n, want.end(), -7.f);
    run.same(std::to_string(count) + " rows live", got, want);
  }
  run.near("y", all, Doubles(all.begin(), all.end()), Doubles(all.size(), 0));
}

// Activations as large as float16 has them: no sum overflows, and an output of float16 stops at its largest number.
static void largest(Run& run, DType weightType, int rows) {
  if (!run.needs(weightType)) return;
  Random random(11);
  constexpr int n = 48, k = 160;
  const DType type = inputOf(run, weightType);
  if (type == DType::bfloat16) run.bfloat16Products();
  run.check(run.ops.reserve(limitsOf(rows, k, type)));
  const Weights w = run.normalWeights(random, n, k, weightType, false);
  Floats values(size_t(rows) * k);
  for (float& value : values) value = random.below(2) ? 65504.f : -65504.f;
  const Array x = run.array(values, type);
  const Bounded sums = productOf(x, w, rows);
  for (DType output : {DType::float32, narrowOf(type)}) {
    Doubles want = sums.value, error = sums.error;
    for (size_t i = 0; i < want.size() && output != DType::float32; i++) {
      if (output == DType::float16) want[i] = std::min(65504.0, std::max(-65504.0, want[i]));
      error[i] += unitOf(output) * (std::fabs(want[i]) + error[i]);
    }
    for (int promptRows : {0, rows}) {
      const Array y = run.zeros(want.size(), output);
      Linear l = linearOf(x, w, y, rows, promptRows);
      l.outputType = output;
      run.check(run.ops.linear(l));
      run.near(std::string(nameOf(output)) + " with " + std::to_string(promptRows) + " prompt rows", run.read(y.data(), want.size(), output), want,
               error);
    }
  }
}

static void refusals(Run& run) {
  Random random(6);
  const bool wide = run.ops.multiplies(DType::float32);  // a card multiplies 16 bits, and needs no memory beside the arguments
  const DType own = wide ? DType::float32 : DType::float16, other = wide ? DType::float16 : DType::float32, input = inputOf(run, DType::int8);
  run.check(run.ops.reserve(limitsOf(4, 8, own)));
  const Weights w = run.normalWeights(random, 8, 8, own, false), whole = run.normalWeights(random, 8, 8, DType::int8, false);
  const Array x = run.normals(random, 64, DType::float32), y = run.zeros(64, DType::float32);
  Linear l = {};
  l.x = x.data();
  l.y = y.data();
  l.xStride = l.yStride = 8;
  l.outputType = l.residualType = DType::float32;
  l.rows = 4;
  for (int promptRows : {0, 4}) {
    l.promptRows = promptRows;
    l.matrix = w.matrix;
    l.type = other;
    run.expect(!run.ops.linear(l).ok(), "inputs of another type than the matrix were taken");
    l.type = own;
    l.matrix.scale = whole.matrix.scale;
    run.expect(!run.ops.linear(l).ok(), "a matrix with scales that is not of int8 was taken");
    l.matrix = whole.matrix;
    l.type = input;
    l.matrix.scale = nullptr;
    run.expect(!run.ops.linear(l).ok(), "an int8 matrix without scales was taken");
    l.matrix = whole.matrix;
    l.type = DType::int8;
    run.expect(!run.ops.linear(l).ok(), "inputs of int8 were taken");
    l.type = input;
    run.check(run.ops.linear(l));
  }
  l.matrix = w.matrix;
  l.type = own;
  l.rows = 5;
  if (wide) run.expect(!run.ops.linear(l).ok(), "more rows than reserved were taken");
  l.rows = 4;
  run.check(run.ops.linear(l));
}

static void bench(Run& run, DType weightType, int rows, int n, int k) {
  Random random(7);
  const DType type = inputOf(run, weightType);
  run.check(run.ops.reserve(limitsOf(rows, k, type)));
  // Few rows are about reading the weights: enough copies that none is still in a cache.
  const int copies = rows > 16 ? 1 : int(300e6 / (double(n) * k * sizeOf(weightType))) + 1;
  const Weights w = run.normalWeights(random, n, k, weightType, true);
  std::vector<char> stored(w.data.bytes());
  run.check(run.ops.download(stored.data(), w.data.data(), stored.size()));
  std::vector<Buffer> others;
  for (int i = 0; i < copies; i++) {
    others.emplace_back(run, stored.size());
    run.check(run.ops.upload(others[i].data(), stored.data(), stored.size()));
  }
  const Array x = run.normals(random, size_t(rows) * k, type), y = run.zeros(size_t(rows) * n, DType::float32);
  Linear l = linearOf(x, w, y, rows);
  run.measure(cost(l), copies, [&](int copy) {
    l.matrix.data = others[copy].data();
    return run.ops.linear(l);
  });
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
    const std::string prefix = std::string("linear/") + nameOf(type) + " ";
    auto shape = [&](const Shape& s, const std::string& rest) {
      cases.test(prefix + std::to_string(s.rows) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k) + rest,
                 [=](Run& run) { linear(run, type, s); });
    };
    for (int rows : {1, 2, 3, 4, 5, 6, 7, 12, 13}) shape({rows, 80, 64}, "");
    shape({1, 1, 1}, " smallest");
    shape({7, 33, 50, Activation::gelu}, " ragged gelu");
    shape({7, 33, 51, Activation::geluTanh}, " ragged odd k gelu tanh");
    shape({3, 200, 5, Activation::silu}, " ragged silu");
    shape({100, 65, 127}, " ragged");
    shape({101, 144, 768}, " two row blocks");
    shape({9, 48, 2050, Activation::relu}, " several k blocks relu");
    shape({2, 48, 3841, Activation::quickGelu}, " several k blocks odd quick gelu");
    shape({3, 5000, 32}, " several tiles a block");
    shape({5, 30, 64, Activation::none, false}, " no bias");
    shape({5, 30, 64, Activation::geluClipped, true, true}, " residual gelu clipped");
    shape({20, 30, 64, Activation::none, true, false, true}, " residual in place");
    shape({11, 21, 19, Activation::none, true, true, false, 5}, " strides");
    shape({11, 21, 20, Activation::gelu, true, false, false, 3, true}, " strides to 16 bits");
    shape({11, 64, 96, Activation::geluTanh, true, true, false, 0, true}, " residual to 16 bits");
    cases.test(prefix + "same bits for any number of rows", [=](Run& run) { sameBits(run, type, 210, 192); });
    cases.test(prefix + "same bits for any number of rows, long odd k", [=](Run& run) { sameBits(run, type, 33, 1301); });
    cases.test(prefix + "same bits for any number of rows, many outputs", [=](Run& run) { anyTile(run, type); });
    for (int rows : {6, 13, 29, 70, 140})
      cases.test(prefix + "only some of " + std::to_string(rows) + " rows live", [=](Run& run) { live(run, type, rows, 52, 160); });
    for (int rows : {3, 40})
      cases.test(prefix + "largest activations, " + std::to_string(rows) + " rows", [=](Run& run) { largest(run, type, rows); });
  }
  cases.test("linear/refuses what it cannot do", refusals);

  for (DType type : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
    for (int rows : {1, 2, 8, 512}) {
      for (auto [n, k] : {std::pair(2304, 768), std::pair(3072, 768), std::pair(768, 3840), std::pair(50304, 768)}) {
        if (rows == 512 && n > 10000) continue;
        cases.bench("linear/" + std::string(nameOf(type)) + " " + std::to_string(rows) + "x" + std::to_string(n) + "x" + std::to_string(k),
                    [=](Run& run) { bench(run, type, rows, n, k); });
      }
    }
  }
});

}  // namespace
}  // namespace ewe::test

// At the edge of float16's range: inputs as large as it has them, and numbers on the way that it has no more, where the result is finite. What
// multiplies or adds in 16 bits, or multiplies whole numbers by their scale too late or too early, comes to an infinity or a NaN here.
#include <algorithm>

#include "linear.h"

namespace ewe::test {
namespace {

constexpr double kMost = 65504;  // of float16

Limits blockLimits(int rows, int width, DType type) {
  Limits l = {};
  l.rows = rows;
  l.width = width;
  l.qkv = l.inner = 4 * width;
  l.heads = l.positions = 1;
  l.headSize = width;
  l.type = type;
  return l;
}

// What is stored as float16 stops at its largest number.
double stored(double value, DType type) { return type == DType::float16 ? std::min(kMost, std::max(-kMost, value)) : value; }

// Rows of the largest numbers, with such signs that the first half of a sum is +-60,000 times the weights' sum and the second takes it all away
// again: what is left is the last column's share.
void cancels(Run& run, DType weightType, int rows, bool out) {
  if (!run.needs(weightType)) return;
  constexpr int n = 48, k = 161;
  const DType type = run.ops.activationType(weightType);
  if (type == DType::bfloat16) run.bfloat16Products();
  run.check(run.ops.reserve(blockLimits(rows, k, type)));
  Floats weights(size_t(n) * k), inputs(size_t(rows) * k), before(size_t(rows) * n);
  for (int i = 0; i < n; i++) {
    // Columns j and j + 80 are the same; the largest is 127 steps of the scale, whatever its size.
    for (int j = 0; j < k; j++) weights[size_t(i * k + j)] = float((127 - (i + j % 80) % 100) * std::ldexp(1.0, i % 9 - 4));
    weights[size_t(i * k)] = weights[size_t(i * k + 80)] = 127 * std::ldexp(1.0f, i % 9 - 4);
  }
  for (int row = 0; row < rows; row++) {
    for (int j = 0; j < k; j++) inputs[size_t(row * k + j)] = j == 160 ? float(row % 7 - 3) : (j < 80) == (row % 2 == 0) ? 60000.f : -60000.f;
  }
  for (size_t i = 0; i < before.size(); i++) before[i] = float(int(i % 13) - 6) * 1e5f;
  const Weights w = run.weights(weights, n, k, weightType, {});
  const Array x = run.array(inputs, type), zero = run.zeros(before.size(), DType::float32);
  const Bounded want = productOf(x, w, rows, out ? before : Floats());
  for (int promptRows : {0, rows / 2, rows}) {
    const Array y = run.array(out ? before : zero.host, DType::float32);
    if (out) {
      run.check(run.ops.blockOut({x.data(), w.matrix, y.data(), nullptr, rows, promptRows, DType::float32, type}));
    } else {
      run.check(run.ops.linear(linearOf(x, w, y, rows, promptRows)));
    }
    run.near("y with " + std::to_string(promptRows) + " prompt rows", run.read(y.data(), want.value.size(), DType::float32), want.value, want.error);
  }
}

// A residual stream of +-a million, whose norm is +-60,000 after its weight: queries, keys, values and the MLP's inside near the largest of float16,
// some of them beyond. Each row is a sequence of one position, so attention of a generated row gives its values back, from scores of 10^10.
void blockIn(Run& run, DType weightType, int rows, Activation activation) {
  if (!run.needs(weightType)) return;
  constexpr int width = 64, inner = 96, page = 16;
  const DType type = run.ops.activationType(weightType);
  if (type == DType::bfloat16) run.bfloat16Products();
  run.check(run.ops.reserve(blockLimits(rows, width, type)));
  Random random(31);
  Floats stream(size_t(rows) * width), weights(size_t(3 * width + inner) * width);
  // Half of a row's numbers of each sign: the mean is 0, the deviation a million, and the norm its signs.
  for (int row = 0; row < rows; row++) {
    Floats signs(width, 1);
    std::fill(signs.begin(), signs.begin() + width / 2, -1.f);
    for (int i = width; i-- > 1;) std::swap(signs[size_t(i)], signs[size_t(random.below(i + 1))]);
    for (int i = 0; i < width; i++) stream[size_t(row * width + i)] = signs[size_t(i)] * 1e6f;
  }
  for (float& value : weights) value = float(random.normal() * 0.06);
  const Floats qkvWeights(weights.begin(), weights.begin() + 3 * width * width), upWeights(weights.begin() + 3 * width * width, weights.end());
  const Weights qkv = run.weights(qkvWeights, 3 * width, width, weightType, {}), up = run.weights(upWeights, inner, width, weightType, {});
  const Array x = run.array(stream, DType::float32), weight = run.array(Floats(width, 60000.f), DType::float32),
              none = run.zeros(width, DType::float32);
  const Array q = run.zeros(size_t(rows) * width, type), hidden = run.zeros(size_t(rows) * inner, type), y = run.zeros(size_t(rows) * width, type);
  const size_t block = run.ops.blockBytes(page, width, type);
  const Buffer arena(run, size_t(rows) * 2 * block);

  Bounded wantQ, wantV, wantHidden;
  const double input = type == DType::float32 ? 60000 : rounded(60000, type);  // the norm's own error is far from where it would round otherwise
  for (int row = 0; row < rows; row++) {
    for (int i = 0; i < 3 * width + inner; i++) {
      double sum = 0, magnitude = 0;
      for (int j = 0; j < width; j++) {
        const double a = std::copysign(input, stream[size_t(row * width + j)]), w = i < 3 * width ? qkv.at(i, j) : up.at(i - 3 * width, j);
        sum += a * w;
        magnitude += std::fabs(a * w);
      }
      const bool mlp = i >= 3 * width;
      // The norm: 8 units for its sums, the root, the division and eps, where nothing rounds them away.
      double error = ((type == DType::float32 ? 8 + width / 32 : 0) + width + 2) * kUnit * magnitude;
      if (mlp) error = error * slopeOf(activation) + activationError(sum, activation);
      const double value = stored(mlp ? activated(sum, activation) : sum, type);
      if (type != DType::float32) error += unitOf(type) * (std::fabs(value) + error);
      if (mlp || i < width || i >= 2 * width) (mlp ? wantHidden : i < width ? wantQ : wantV).push(value, error);
    }
  }
  for (int promptRows : {0, rows}) {
    std::vector<SequenceRows> sequences;
    for (int row = 0; row < rows; row++) sequences.push_back({0, 1, {row}});
    const Step step = run.step(sequences, promptRows);
    BlockIn b = {};
    b.x = x.data();
    b.weight = b.weight2 = weight.floats();
    b.bias = b.bias2 = none.floats();
    b.qkvMatrix = qkv.matrix;
    b.up = up.matrix;
    b.qkv = {q.data(), {arena.data(), type, page, 1, width, (long long)block}, {none.floats(), none.floats(), 0}, 1, 0};
    b.hidden = hidden.data();
    b.step = step.rows;
    b.width = width;
    b.hiddenStride = inner;
    b.eps = 1e-5f;
    b.activation = activation;
    b.residualType = DType::float32;
    b.type = type;
    run.check(run.ops.blockIn(b));
    Attend a = {};
    a.q = q.data();
    a.cache = b.qkv.cache;
    a.y = y.data();
    a.step = step.rows;
    a.heads = 1;
    a.yStride = width;
    a.scale = float(1 / std::sqrt(double(width)));
    a.maxPositions = 1;
    a.type = type;
    run.check(run.ops.attend(a));
    const std::string which = promptRows ? " of prompts" : " of generated rows";
    run.near("queries" + which, run.read(q.data(), wantQ.value.size(), type), wantQ.value, wantQ.error);
    run.near("hidden" + which, run.read(hidden.data(), wantHidden.value.size(), type), wantHidden.value, wantHidden.error);
    run.near("values" + which, run.read(y.data(), wantV.value.size(), type), wantV.value, wantV.error);
  }
}

const Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
    const std::string prefix = std::string("edges/") + nameOf(type) + ": ";
    for (int rows : {1, 5, 40}) {
      const std::string suffix = ", " + std::to_string(rows) + (rows == 1 ? " row" : " rows");
      cases.test(prefix + "a product whose halves cancel" + suffix, [=](Run& run) { cancels(run, type, rows, false); });
      cases.test(prefix + "BlockOut whose halves cancel" + suffix, [=](Run& run) { cancels(run, type, rows, true); });
      cases.test(prefix + "BlockIn of a stream of millions" + suffix, [=](Run& run) { blockIn(run, type, rows, Activation::gelu); });
    }
    cases.test(prefix + "BlockIn of a stream of millions, gelu tanh", [=](Run& run) { blockIn(run, type, 3, Activation::geluTanh); });
  }
});

}  // namespace
}  // namespace ewe::test

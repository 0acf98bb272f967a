// A layer for the cases of the block ops: all that a BlockIn reads and writes, and the references of its parts.
#pragma once
#include <algorithm>

#include "cases.h"

namespace ewe::test::layers {
struct Shape {
  int heads, kvHeads, headSize, rotary, width, inner;
  DType weights;
  Ints lengths;  // one sequence each, from position 0
  bool second = true;
  float clip = 0;
  Activation activation = Activation::gelu;
  int rows() const {
    int sum = 0;
    for (int length : lengths) sum += length;
    return sum;
  }
  int longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  int qkv() const { return (heads + 2 * kvHeads) * headSize; }
};

constexpr int kPageSize = 16;

// All that a BlockIn reads and writes.
struct Layer {
  Run& run;
  const Shape& shape;
  DType type;
  Array x, weight[2], bias[2], cos, sin, q, hidden;
  Weights qkvMatrix, up;
  Buffer arena;
  Ints firstPages;
  int hiddenStride;
  BlockIn in;

  Layer(Run& r, const Shape& s, Random random)
      : run(r),
        shape(s),
        type(r.ops.activationType(s.weights)),
        x(r.normals(random, size_t(s.rows()) * s.width, DType::float32, 1, 0.2)),
        weight{r.normals(random, s.width, DType::float32, 0.2, 1), r.normals(random, s.width, DType::float32, 0.2, 1)},
        bias{r.normals(random, s.width, DType::float32, 0.2), r.normals(random, s.width, DType::float32, 0.2)},
        cos(angles(random, true)),
        sin(angles(random, false)),
        q(r.zeros(size_t(s.rows()) * s.heads * s.headSize, type)),
        hidden(r.zeros(size_t(s.rows()) * (s.inner + 5), type)),
        qkvMatrix(r.normalWeights(random, s.qkv(), s.width, s.weights, true)),
        up(r.normalWeights(random, s.inner, s.width, s.weights, true)),
        arena(r, size_t(pages()) * 2 * s.kvHeads * blockBytes()),
        hiddenStride(s.inner + 5) {
    Limits limits = {};
    limits.rows = s.rows();
    limits.width = s.width;
    limits.qkv = s.qkv();
    limits.inner = s.inner;
    limits.heads = s.heads;
    limits.headSize = s.headSize;
    limits.positions = s.longest();
    limits.type = type;
    run.check(run.ops.reserve(limits));
    const Cache cache = {arena.data(), type, kPageSize, s.kvHeads, s.headSize, (long long)blockBytes()};
    in = {x.data(),
          weight[0].floats(),
          bias[0].floats(),
          s.second ? weight[1].floats() : nullptr,
          s.second ? bias[1].floats() : nullptr,
          qkvMatrix.matrix,
          up.matrix,
          {q.data(), cache, {cos.floats(), sin.floats(), s.rotary}, s.heads, s.clip},
          hidden.data(),
          {},
          s.width,
          nullptr,
          hiddenStride,
          1e-5f,
          s.activation,
          DType::float32,
          type};
  }
  size_t blockBytes() const { return run.ops.blockBytes(kPageSize, shape.headSize, type); }
  int pages() const {
    int count = 0;
    for (int length : shape.lengths) count += (length + kPageSize - 1) / kPageSize;
    return count;
  }
  // Angles of a position are the same pair of numbers in both tables.
  Array angles(Random random, bool cosine) {
    Floats table(size_t(shape.longest()) * (shape.rotary / 2));
    for (float& value : table) {
      const double angle = random.uniform() * 6.3;
      value = float(cosine ? std::cos(angle) : std::sin(angle));
    }
    return run.array(table, DType::float32);
  }
  // Rows of each sequence from `first` on, those of the first promptSequences sequences of the prompt class.
  Step step(int first, int count, int promptSequences) const {
    std::vector<SequenceRows> rows;
    int page = 0;
    for (int length : shape.lengths) {
      Ints own;
      for (int p = 0; p < length; p += kPageSize) own.push_back(page++);
      const int from = std::min(first, length);
      if (std::min(count, length - from) > 0) rows.push_back({from, std::min(count, length - from), own});
    }
    return run.step(rows, std::min(promptSequences, int(rows.size())));
  }
  Floats attended(const Rows& rows) {
    const int width = shape.heads * shape.headSize;
    const Array y = run.zeros(size_t(rows.rows) * width, type);
    const Attend a = {
        q.data(),        in.qkv.cache, y.data(), rows, nullptr, nullptr, shape.heads, width, float(1 / std::sqrt(double(shape.headSize))),
        shape.longest(), type};
    run.check(run.ops.attend(a));
    return run.read(y.data(), size_t(rows.rows) * width, type);
  }
};

// The input of a product: a norm, rounded to the type. Where the rounding of a correct fp32 norm could fall either way, the difference is an error.
inline void normReference(const Layer& l, int row, int which, Doubles& value, Doubles& error) {
  const int width = l.shape.width;
  const float* x = l.x.host.data() + size_t(row) * width;
  double mean = 0, variance = 0;
  for (int i = 0; i < width; i++) mean += x[i];
  mean /= width;
  for (int i = 0; i < width; i++) variance += (x[i] - mean) * (x[i] - mean);
  const double scale = 1 / std::sqrt(variance / width + double(1e-5f));
  for (int i = 0; i < width; i++) {
    const double w = l.weight[which].host[i], b = l.bias[which].host[i], d = (x[i] - mean) * scale, y = d * w + b;
    const double e = kUnit * ((width / 32 + 16) * std::fabs(w) * (std::fabs(d) + 1) + std::fabs(b) + std::fabs(y));
    value.push_back(l.type == DType::float32 ? y : rounded(y, l.type));
    error.push_back(l.type == DType::float32 ? e : std::fabs(rounded(y + e, l.type) - rounded(y - e, l.type)));
  }
}

inline Bounded productReference(const Weights& w, const Doubles& value, const Doubles& error) {
  Bounded out;
  const int k = w.matrix.k;
  for (size_t row = 0; row < value.size() / k; row++) {
    for (int i = 0; i < w.matrix.n; i++) {
      double sum = w.bias.host[i], magnitude = std::fabs(sum), carried = 0;
      for (int j = 0; j < k; j++) {
        sum += w.at(i, j) * value[row * k + j];
        magnitude += std::fabs(w.at(i, j) * value[row * k + j]);
        carried += std::fabs(w.at(i, j)) * error[row * k + j];
      }
      out.push(sum, carried * (1 + 1e-3) + (k + 2) * kUnit * magnitude);
    }
  }
  return out;
}

inline double stored(DType type, double value, double error) {
  return type == DType::float32 ? error : error + unitOf(type) * (std::fabs(value) + error);
}

}  // namespace ewe::test::layers

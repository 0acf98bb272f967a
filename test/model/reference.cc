#include "reference.h"

#include "model/forward.h"

namespace ewe::test {

// x [rows, k] W^T + bias
Doubles ReferenceModel::linear(const Doubles& x, const Matrix& m) const {
  Floats w(size_t(m.n) * size_t(m.k));
  run_.check(run_.ops.fetch(m, 0, m.n, w.data(), m.k));
  const Floats bias = numbers(m.bias, m.n);
  Doubles y;
  for (size_t row = 0; row < x.size() / size_t(m.k); row++) {
    for (int i = 0; i < m.n; i++) {
      double sum = bias[size_t(i)];
      for (int j = 0; j < m.k; j++) sum += x[row * size_t(m.k) + size_t(j)] * double(w[size_t(i) * size_t(m.k) + size_t(j)]);
      y.push_back(sum);
    }
  }
  return y;
}

Doubles ReferenceModel::norm(const Doubles& x, const float* weight, const float* bias) const {
  const int width = spec_.hidden;
  const Floats scale = numbers(weight, width), shift = numbers(bias, width);
  Doubles y(x.size());
  for (size_t row = 0; row < x.size(); row += size_t(width)) {
    double mean = 0, variance = 0;
    for (int i = 0; i < width; i++) mean += x[row + size_t(i)] / width;
    for (int i = 0; i < width; i++) variance += std::pow(x[row + size_t(i)] - mean, 2) / width;
    for (size_t i = 0; i < size_t(width); i++) y[row + i] = (x[row + i] - mean) / std::sqrt(variance + double(spec_.normEps)) * scale[i] + shift[i];
  }
  return y;
}

// Of rows of [queries | keys | values], causal.
Doubles ReferenceModel::attention(Doubles projection) const {
  const Spec& s = spec_;
  const int d = s.headSize, stride = (s.heads + 2 * s.kvHeads) * d, rows = int(projection.size()) / stride, pairs = s.rotarySize / 2;
  auto head = [&](int row, int index) { return &projection[size_t(row) * size_t(stride) + size_t(index) * size_t(d)]; };
  Floats cos(size_t(rows) * size_t(pairs)), sin(cos.size());
  rotaryTables(s, rows, cos.data(), sin.data());
  for (int row = 0; row < rows; row++) {
    for (int i = 0; i < stride && s.clipQkv > 0; i++) head(row, 0)[i] = std::max(-double(s.clipQkv), std::min(double(s.clipQkv), head(row, 0)[i]));
    for (int h = 0; h < s.heads + s.kvHeads; h++) {
      for (int j = 0; j < pairs; j++) {
        double &a = head(row, h)[2 * j], &b = head(row, h)[2 * j + 1];
        const double c = cos[size_t(row * pairs + j)], t = sin[size_t(row * pairs + j)], first = a * c - b * t;
        b = b * c + a * t;
        a = first;
      }
    }
  }
  Doubles y;
  for (int row = 0; row < rows; row++) {
    for (int h = 0; h < s.heads; h++) {
      const int kv = h / (s.heads / s.kvHeads);
      Doubles share(size_t(row) + 1);
      double most = -INFINITY, sum = 0;
      for (int t = 0; t <= row; t++) {
        double score = 0;
        for (int i = 0; i < d; i++) score += head(row, h)[i] * head(t, s.heads + kv)[i];
        share[size_t(t)] = score / std::sqrt(double(d));
        most = std::max(most, share[size_t(t)]);
      }
      for (double& w : share) sum += w = std::exp(w - most);
      for (int i = 0; i < d; i++) {
        double o = 0;
        for (int t = 0; t <= row; t++) o += share[size_t(t)] / sum * head(t, s.heads + s.kvHeads + kv)[i];
        y.push_back(o);
      }
    }
  }
  return y;
}

static void add(Doubles& x, const Doubles& y) {
  for (size_t i = 0; i < x.size(); i++) x[i] += y[i];
}

// Rows of a beside rows of b.
static Doubles beside(const Doubles& a, const Doubles& b, size_t rows) {
  Doubles out;
  for (size_t row = 0; row < rows; row++) {
    for (const Doubles* part : {&a, &b}) {
      const size_t width = part->size() / rows;
      out.insert(out.end(), part->begin() + long(row * width), part->begin() + long((row + 1) * width));
    }
  }
  return out;
}

Reference ReferenceModel::operator()(const Ints& tokens) const {
  const Spec& s = spec_;
  const size_t width = size_t(s.hidden);
  const Floats table = run_.read(weights_.embed, size_t(s.vocab) * width, weights_.embedType);
  Reference out;
  Doubles x;
  for (int token : tokens) x.insert(x.end(), table.begin() + token * s.hidden, table.begin() + (token + 1) * s.hidden);
  for (const LayerWeights& w : weights_.layers) {
    out.hidden.push_back(x);
    const Doubles a = norm(x, w.norm1Weight, w.norm1Bias), attended = attention(linear(a, w.qkv));
    if (!s.parallel) add(x, linear(attended, w.out));
    Doubles hidden = linear(s.sharedNorm ? a : norm(x, w.norm2Weight, w.norm2Bias), w.up);
    for (double& value : hidden) value = activated(value, s.activation);
    add(x, s.parallel ? linear(beside(attended, hidden, tokens.size()), w.blockOut) : linear(hidden, w.down));
  }
  x = norm(x, weights_.finalWeight, weights_.finalBias);
  out.hidden.push_back(x);
  out.logits = linear(x, weights_.head);
  return out;
}

}  // namespace ewe::test

// What the cases of products share.
#pragma once
#include "cases.h"

namespace ewe::test {

inline DType inputOf(const Run& run, DType weights) { return run.ops.activationType(weights); }
// The 16-bit type of outputs beside inputs of `type`.
inline DType narrowOf(DType type) { return type == DType::float32 ? DType::bfloat16 : type; }

inline Limits limitsOf(int rows, int k, DType type) {
  Limits l = {};
  l.rows = rows;
  l.width = k;
  l.heads = l.headSize = 1;
  l.type = type;
  return l;
}

// y = x W^T + b as it is mostly asked for: whole rows of x, outputs in float32.
inline Linear linearOf(const Array& x, const Weights& w, const Array& y, int rows, int promptRows = 0) {
  Linear l = {};
  l.x = x.data();
  l.matrix = w.matrix;
  l.y = y.data();
  l.rows = rows;
  l.promptRows = promptRows;
  l.xStride = w.matrix.k;
  l.yStride = w.matrix.n;
  l.type = x.type;
  l.outputType = l.residualType = DType::float32;
  return l;
}

// The same without its bias, added to `before` where that has something. Sums of k products in fp32 and some order are off by at most (k + 1) units
// times the sum of their magnitudes, and the scale of int8 rounds once more.
inline Bounded productOf(const Array& x, const Weights& w, int rows, const Floats& before = {}) {
  const int n = w.matrix.n, k = w.matrix.k;
  Bounded out;
  for (int row = 0; row < rows; row++) {
    for (int i = 0; i < n; i++) {
      double sum = before.empty() ? 0 : before[size_t(row) * n + i], magnitude = std::fabs(sum);
      for (int j = 0; j < k; j++) {
        const double product = w.at(i, j) * x.host[size_t(row) * k + j];
        sum += product;
        magnitude += std::fabs(product);
      }
      out.push(sum, (k + 2) * kUnit * magnitude);
    }
  }
  return out;
}

}  // namespace ewe::test

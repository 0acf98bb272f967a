// LayerNorm of one row, in parts that one warp each takes: norm.cu gives a row all its warps at once, and the decode kernel of a layer's first third
// (block.cu) normalises several rows before its products. Both must give a row the same bits, so the order of every addition is fixed here and
// depends on the width alone.
//
//   part p, lane l, group j holds columns 4 (32 p + l) + 1024 j + i, i = 0 .. 3
//   the sum of a part: a lane's numbers in the order of j, then i; then the lanes, by halves (butterfly)
//   the sum of a row: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) of its parts
//
// Products that are summed are written as fma: what a compiler contracts may differ from kernel to kernel. Rows begin on 16 bytes where the width is
// a multiple of 4; other widths are read number by number.
#pragma once
#include "seam.cuh"

namespace ewe::kernels {

constexpr int kRowParts = 8;
constexpr int kRowGroups = 8;
constexpr int kRowWidth = 4 * 32 * kRowParts * kRowGroups;  // 8,192, the widest row

// A lane's numbers of one part; those beyond the width are 0.
struct RowPart {
  float v[kRowGroups][4];
};

DEVICE int columnOfPart(int part, int group) { return 4 * (32 * part + lane()) + 4 * 32 * kRowParts * group; }

// Four numbers from column on, of which those beyond the width are 0.
DEVICE void loadColumns(float (&v)[4], const float* x, int column, int width) {
  if (width % 4 == 0) {
    Floats4 four = {};
    if (column < width) four = load(reinterpret_cast<const Floats4*>(x + column));
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = four.v[i];
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = column + i < width ? x[column + i] : 0;
  }
}

DEVICE void loadPart(RowPart& x, const float* row, int part, int width) {
#pragma unroll
  for (int j = 0; j < kRowGroups; j++) loadColumns(x.v[j], row, columnOfPart(part, j), width);
}

DEVICE float sumOfLanes(float s) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) s += shuffleXor(s, mask);
  return s;
}

// For all lanes. First pass: the sum of x. Second: the sums of d = x - mean and of d^2.
DEVICE float sumOfPart(const RowPart& x) {
  float s = 0;
#pragma unroll
  for (int j = 0; j < kRowGroups; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) s += x.v[j][i];
  }
  return sumOfLanes(s);
}
struct Deviations {
  float rest, squares;
};
DEVICE Deviations deviationsOfPart(const RowPart& x, float mean, int part, int width) {
  Deviations s = {};
#pragma unroll
  for (int j = 0; j < kRowGroups; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float d = columnOfPart(part, j) + i < width ? x.v[j][i] - mean : 0;
      s.rest += d;
      s.squares = fmaOf(d, d, s.squares);
    }
  }
  return {sumOfLanes(s.rest), sumOfLanes(s.squares)};
}

// Of a row, from the sums of its parts. The mean is `mean` + `rest`, what rounding left over in the first: that keeps the digits of rows with a large
// common offset.
struct RowStatistics {
  float mean, rest, scale;
};
DEVICE float sumOfParts(const float* s) { return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])); }
DEVICE float meanOf(const float* sums, int width) { return sumOfParts(sums) / float(width); }
DEVICE RowStatistics statisticsOf(float mean, const float* rests, const float* squares, int width, float eps) {
  const float rest = sumOfParts(rests) / float(width), variance = fmaOf(-rest, rest, sumOfParts(squares) / float(width));
  return {mean, rest, rsqrtOf(maxOf(variance, 0.0f) + eps)};
}

// The weight and the bias (or null) of four columns, applied to the normalised x.
DEVICE void applyNorm(float (&y)[4], const float (&x)[4], const RowStatistics& s, const float* weight, const float* bias, int column, int width) {
  float w[4], b[4];
  loadColumns(w, weight, column, width);
  if (bias) loadColumns(b, bias, column, width);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float d = (x[i] - s.mean - s.rest) * s.scale;
    y[i] = bias ? fmaOf(d, w[i], b[i]) : d * w[i];
  }
}

}  // namespace ewe::kernels

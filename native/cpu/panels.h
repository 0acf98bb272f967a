// How matrices and the cache lie in memory, and the one product that reads both.
//
// A panel holds 16 outputs (of a matrix) or 16 tokens (of the keys) or 16 components (of the values) side by side: one vector per step along k.
//   float32, float16 matrix  [n / 16][k][16]            a step is one k
//   bfloat16 matrix          [n / 16][k / 2][16][2]     a step is a pair of k; an odd k is padded with zero
//   keys of a page           the same with n = pageSize tokens and k = headSize
//   values of a page         [token][headSize padded to 16] or [token / 2][headSize padded to 16][2]
// Every element of a result is one chain of additions along k, for any number of rows: its bits depend on nothing else.
#pragma once
#include "cpu/simd.h"
#include "ops/args.h"

namespace ewe::EWE_CPU {

constexpr long roundUp(long n, long to) { return (n + to - 1) / to * to; }
constexpr int kPanel = 16;

// The form in which a product reads its rows: bfloat16 numbers as such where the machine multiplies them, else widened.
enum class Format { float32, bfloat16, bfloat16AsFloat32 };
constexpr Format formatOf(DType type) {
  return type == DType::bfloat16 ? (kDotBfloat16 ? Format::bfloat16 : Format::bfloat16AsFloat32) : Format::float32;
}
constexpr int sizeOf(Format format) { return format == Format::bfloat16 ? 2 : 4; }
// Row length of a product's input along k; the padding must hold zeros.
constexpr long paddedK(long k, DType type) { return type == DType::bfloat16 ? roundUp(k, 2) : k; }

// ---- kinds of panels: how one step is loaded and multiplied

struct Float32Panels {
  using Weight = float;
  using Row = float;
  static constexpr int kWidth = 16;  // weights of one vector, and numbers of a row, per step
  static constexpr int kStep = 1;
  Vector w;
  EWE_INLINE void fetch(const float* p) { w = load(p); }
  EWE_INLINE Vector add(const float* x, Vector sum) const { return fma(set(*x), w, sum); }
};

struct Float16Panels {
  using Weight = uint16_t;
  using Row = float;
  static constexpr int kWidth = 16;
  static constexpr int kStep = 1;
  Vector w;
  EWE_INLINE void fetch(const uint16_t* p) { w = fromFloat16(p); }
  EWE_INLINE Vector add(const float* x, Vector sum) const { return fma(set(*x), w, sum); }
};

#if defined(__AVX512BF16__)
// The instruction takes subnormal inputs and results as zero (below 1.2e-38, far under any tolerance here), whatever the mode of the thread.
struct Bfloat16Panels {
  using Weight = uint16_t;
  using Row = uint16_t;
  static constexpr int kWidth = 32;
  static constexpr int kStep = 2;
  __m512bh w;
  EWE_INLINE void fetch(const uint16_t* p) { w = __m512bh(_mm512_loadu_si512(p)); }
  EWE_INLINE Vector add(const uint16_t* x, Vector sum) const {
    int32_t pair;
    memcpy(&pair, x, 4);
    sum.part[0] = FloatPart(_mm512_dpbf16_ps(__m512(sum.part[0]), __m512bh(_mm512_set1_epi32(pair)), w));
    return sum;
  }
};
#else
struct Bfloat16Panels {
  using Weight = uint16_t;
  using Row = float;
  static constexpr int kWidth = 32;
  static constexpr int kStep = 2;
  Vector even, odd;
  EWE_INLINE void fetch(const uint16_t* p) {
    Words pairs = loadWords(p);
    even = evenBfloat16(pairs);
    odd = oddBfloat16(pairs);
  }
  EWE_INLINE Vector add(const float* x, Vector sum) const { return fma(set(x[1]), odd, fma(set(x[0]), even, sum)); }
};
#endif

// ---- the product

// Rows of a tile, and how many panels its registers hold beside (24, 6 and 3 sums of 16).
constexpr int kTileRows = kLanes == 4 ? 3 : 6;
constexpr int panelsInFlight(int rows) {
  constexpr int sums = kLanes == 16 ? 24 : kLanes == 8 ? 6 : 3;
  const int fit = sums / rows;
  return fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

// Where panels lie: strides in weights.
template <class Kind>
struct Panels {
  const typename Kind::Weight* data;
  long panelStride, stepStride;
};

template <class Kind, int rows, int panels>
EWE_INLINE void tile(int steps, const typename Kind::Row* x, long xStride, Panels<Kind> w, float* c, long cStride, bool add) {
  Vector sum[rows][panels];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++) sum[r][p] = add ? load(c + r * cStride + p * kPanel) : zero();
  for (int s = 0; s < steps; s++) {
    Kind step[panels];
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++) step[p].fetch(w.data + p * w.panelStride);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
      for (int p = 0; p < panels; p++) sum[r][p] = step[p].add(x + r * xStride, sum[r][p]);
    w.data += w.stepStride;
    x += Kind::kStep;
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++) store(c + r * cStride + p * kPanel, sum[r][p]);
}

template <class Kind, int rows, int panels>
__attribute__((noinline)) void tiles(int count, int steps, const typename Kind::Row* x, long xStride, Panels<Kind> w, float* c, long cStride,
                                     bool add) {
  for (; count >= panels; count -= panels) {
    tile<Kind, rows, panels>(steps, x, xStride, w, c, cStride, add);
    w.data += panels * w.panelStride;
    c += panels * kPanel;
  }
  if constexpr (panels > 1) {
    if (count) tiles<Kind, rows, panels / 2>(count, steps, x, xStride, w, c, cStride, add);
  }
}

// c[rows, panels * 16] = (add ? c : 0) + x w^T over `steps` steps; strides in elements.
template <class Kind>
void product(int rows, int panels, int steps, const typename Kind::Row* x, long xStride, Panels<Kind> w, float* c, long cStride, bool add) {
  while (rows > 0) {
    const int n = rows < kTileRows ? rows : kTileRows;
    switch (n) {
      case 1: tiles<Kind, 1, panelsInFlight(1)>(panels, steps, x, xStride, w, c, cStride, add); break;
      case 2: tiles<Kind, 2, panelsInFlight(2)>(panels, steps, x, xStride, w, c, cStride, add); break;
      case 3: tiles<Kind, 3, panelsInFlight(3)>(panels, steps, x, xStride, w, c, cStride, add); break;
#if defined(__AVX2__)
      case 4: tiles<Kind, 4, panelsInFlight(4)>(panels, steps, x, xStride, w, c, cStride, add); break;
      case 5: tiles<Kind, 5, panelsInFlight(5)>(panels, steps, x, xStride, w, c, cStride, add); break;
      case 6: tiles<Kind, 6, panelsInFlight(6)>(panels, steps, x, xStride, w, c, cStride, add); break;
#endif
    }
    rows -= n;
    x += n * xStride;
    c += n * cStride;
  }
}

}  // namespace ewe::EWE_CPU

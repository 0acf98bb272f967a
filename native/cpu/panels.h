// How matrices and the cache lie in memory, and the one product that reads both.
//
// A panel holds 16 outputs (of a matrix) or 16 tokens (of the keys) or 16 components (of the values) side by side: one vector per step along k. Those
// of a matrix lie in groups of four, step by step, so that a product of few rows reads all of its memory in order.
//   float32, float16 matrix  [n / 64][k][64]            a step is one k
//   bfloat16 matrix          [n / 64][k / 2][64][2]     a step is a pair of k; an odd k is padded with zero
//   int8 matrix              [n / 64][k / 4][64][4]     a step is four k; the last may be one to three of them, with anything behind
//   keys of a page           [tokens / 16][headSize][16], or [tokens / 16][headSize / 2][16][2]
//   values of a page         [token][headSize padded to 16] or [token / 2][headSize padded to 16][2]
// Every element of a result is one chain of additions along k, for any number of rows: its bits depend on nothing else.
#pragma once
#include "cpu/simd.h"
#include "ops/args.h"

namespace ewe::EWE_CPU {

constexpr long roundUp(long n, long to) { return (n + to - 1) / to * to; }
constexpr int kPanel = 16;
constexpr int kGroup = 4;  // panels of a matrix
constexpr int kGroupColumns = kGroup * kPanel;

// The form in which a product reads its rows: bfloat16 numbers as such where the machine multiplies them, else widened.
enum class Format { float32, bfloat16, bfloat16AsFloat32 };
constexpr Format formatOf(DType type) {
  return type == DType::bfloat16 ? (kDotBfloat16 ? Format::bfloat16 : Format::bfloat16AsFloat32) : Format::float32;
}
constexpr int sizeOf(Format format) { return format == Format::bfloat16 ? 2 : 4; }
// k of a matrix in memory, and of a product's input; the padding of an input must hold zeros.
constexpr long paddedK(long k, DType type) { return type == DType::bfloat16 ? roundUp(k, 2) : type == DType::int8 ? roundUp(k, 4) : k; }

// ---- kinds of panels: how one step is loaded, and what of it multiplies which number of a row

struct Float32Panels {
  using Weight = float;
  using Row = float;
  static constexpr int kWidth = 16;  // weights of one vector
  static constexpr int kStep = 1;    // numbers of a row
  static constexpr int kPieces = 1;  // what add() takes at a time
  Vector w;
  EWE_INLINE void fetch(const float* p) { w = load(p); }
  EWE_INLINE Vector piece(int) const { return w; }
  static EWE_INLINE Vector add(const float* x, Vector w, Vector sum) { return fma(set(*x), w, sum); }
};

struct Float16Panels {
  using Weight = uint16_t;
  using Row = float;
  static constexpr int kWidth = 16;
  static constexpr int kStep = 1;
  static constexpr int kPieces = 1;
  Vector w;
  EWE_INLINE void fetch(const uint16_t* p) { w = fromFloat16(p); }
  EWE_INLINE Vector piece(int) const { return w; }
  static EWE_INLINE Vector add(const float* x, Vector w, Vector sum) { return fma(set(*x), w, sum); }
};

// Whole numbers times kByteUnit, whose products are summed as they are: the scale is the same all along k, and comes after (gemm.h). Four steps of
// arithmetic for 64 bytes make the processor look less far ahead than for the other kinds, so what comes next is asked for.
struct Int8Panels {
  using Weight = int8_t;
  using Row = float;
  static constexpr int kWidth = 64;
  static constexpr int kStep = 4;
  static constexpr int kPieces = 4;
  Words w;
  EWE_INLINE void fetch(const int8_t* p) {
    __builtin_prefetch(p + 2048);
    w = loadWords(p);
  }
  EWE_INLINE Vector piece(int i) const { return byteOf(w, i); }
  static EWE_INLINE Vector add(const float* x, Vector w, Vector sum) { return fma(set(*x), w, sum); }
};

#if defined(__AVX512BF16__)
// The instruction takes subnormal inputs and results as zero (below 1.2e-38, far under any tolerance here), whatever the mode of the thread.
struct Bfloat16Panels {
  using Weight = uint16_t;
  using Row = uint16_t;
  static constexpr int kWidth = 32;
  static constexpr int kStep = 2;
  static constexpr int kPieces = 1;
  __m512bh w;
  EWE_INLINE void fetch(const uint16_t* p) { w = __m512bh(_mm512_loadu_si512(p)); }
  EWE_INLINE __m512bh piece(int) const { return w; }
  static EWE_INLINE Vector add(const uint16_t* x, __m512bh w, Vector sum) {
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
  static constexpr int kPieces = 2;
  Words w;
  EWE_INLINE void fetch(const uint16_t* p) { w = loadWords(p); }
  EWE_INLINE Vector piece(int i) const { return i == 0 ? evenBfloat16(w) : oddBfloat16(w); }
  static EWE_INLINE Vector add(const float* x, Vector w, Vector sum) { return fma(set(*x), w, sum); }
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

// One piece of each panel times its number of each row.
template <class Kind, int rows, int panels>
EWE_INLINE void addPiece(int piece, const Kind* step, const typename Kind::Row* x, long xStride, Vector (&sum)[rows][panels]) {
  decltype(step->piece(0)) w[panels];
#pragma GCC unroll 8
  for (int p = 0; p < panels; p++) w[p] = step[p].piece(piece);
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++) sum[r][p] = Kind::add(x + r * xStride + piece, w[p], sum[r][p]);
}

template <class Kind, int rows, int panels>
EWE_INLINE void tile(int k, const typename Kind::Row* x, long xStride, Panels<Kind> w, float* c, long cStride, bool add) {
  Vector sum[rows][panels];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++) sum[r][p] = add ? load(c + r * cStride + p * kPanel) : zero();
  Kind step[panels];
  for (; k >= Kind::kStep; k -= Kind::kStep) {
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++) step[p].fetch(w.data + p * w.panelStride);
#pragma GCC unroll 4
    for (int i = 0; i < Kind::kPieces; i++) addPiece(i, step, x, xStride, sum);
    w.data += w.stepStride;
    x += Kind::kStep;
  }
  if (Kind::kPieces == 4 && k > 0) {
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++) step[p].fetch(w.data + p * w.panelStride);
    for (int i = 0; i < k; i++) addPiece(i, step, x, xStride, sum);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++) store(c + r * cStride + p * kPanel, sum[r][p]);
}

template <class Kind, int rows, int panels>
__attribute__((noinline)) void tiles(int count, int k, const typename Kind::Row* x, long xStride, Panels<Kind> w, float* c, long cStride, bool add) {
  for (; count >= panels; count -= panels) {
    tile<Kind, rows, panels>(k, x, xStride, w, c, cStride, add);
    w.data += panels * w.panelStride;
    c += panels * kPanel;
  }
  if constexpr (panels > 1) {
    if (count) tiles<Kind, rows, panels / 2>(count, k, x, xStride, w, c, cStride, add);
  }
}

// c[rows, panels * 16] = (add ? c : 0) + x w^T over k numbers of a row, whole steps but for int8; strides in elements.
template <class Kind>
void product(int rows, int panels, int k, const typename Kind::Row* x, long xStride, Panels<Kind> w, float* c, long cStride, bool add) {
  while (rows > 0) {
    const int n = rows < kTileRows ? rows : kTileRows;
    switch (n) {
      case 1: tiles<Kind, 1, panelsInFlight(1)>(panels, k, x, xStride, w, c, cStride, add); break;
      case 2: tiles<Kind, 2, panelsInFlight(2)>(panels, k, x, xStride, w, c, cStride, add); break;
      case 3: tiles<Kind, 3, panelsInFlight(3)>(panels, k, x, xStride, w, c, cStride, add); break;
#if defined(__AVX2__)
      case 4: tiles<Kind, 4, panelsInFlight(4)>(panels, k, x, xStride, w, c, cStride, add); break;
      case 5: tiles<Kind, 5, panelsInFlight(5)>(panels, k, x, xStride, w, c, cStride, add); break;
      case 6: tiles<Kind, 6, panelsInFlight(6)>(panels, k, x, xStride, w, c, cStride, add); break;
#endif
    }
    rows -= n;
    x += n * xStride;
    c += n * cStride;
  }
}

}  // namespace ewe::EWE_CPU

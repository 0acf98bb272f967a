// The operands of the matrix kernels as fragments of tile.cuh's units: weights in the device's order (linear.plan.h), int8 ones made into 16-bit
// numbers in registers, and rows of activations. Both come in tiles of 16 x 32 inputs, which are two products of depth 16; either can be the left
// operand (its rows) or the right one (its columns).
#pragma once
#include "linear.plan.h"
#include "tile.cuh"

namespace ewe::kernels {

// An int8 weight: a whole number with kInt8Bias added.
struct i8 {
  unsigned char biased;
};

enum class Side { left, right };

#if EWE_PATH >= 750
constexpr int kWeightStep = 32;  // 16-byte pieces between a lane's pieces of a tile
template <Side side>
DEVICE int weightPlace() {  // of the first
  return lane();
}
#else
constexpr int kWeightStep = 16;
template <Side side>
DEVICE int laneRow() {
  return ((side == Side::left ? quarterOf() & 1 : quarterOf() >> 1) << 3) + halfOf() * 4 + (lane() & 3);
}
template <Side side>
DEVICE int weightPlace() {
  return outputPlace700(laneRow<side>());
}
#endif

// ---- Weights: 16 outputs x 32 inputs

template <class W>
constexpr int kWeightPieces = (kPath >= 750 ? 1 : 2) * int(sizeof(W));  // 16-byte loads of a lane

template <class W>
struct WeightTile {
  Words4 piece[kWeightPieces<W>];
};

// Four biased bytes as 16-bit numbers, the first two in `low`. fp16: the byte under the exponent of 1024 is 1024 + byte. bf16 has no room for eight
// bits and that trick; fp32 has, and the upper half of a whole number below 256 is the number.
template <class T>
DEVICE void widen(unsigned bytes, unsigned& low, unsigned& high) {
  if constexpr (kIsBf16<T>) {
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = floatOf(pickBytes(bytes, 0x4B000000u, 0x7440u + unsigned(i))) - float(0x800000 + kInt8Bias);
    low = pickBytes(bitsOf(x[0]), bitsOf(x[1]), 0x7632u);
    high = pickBytes(bitsOf(x[2]), bitsOf(x[3]), 0x7632u);
  } else {
    constexpr unsigned bias = 0x64006400u + kInt8Bias * 0x10001u;
    low = subtractPairF16(pickBytes(bytes, 0x64646464u, 0x4140u), bias);
    high = subtractPairF16(pickBytes(bytes, 0x64646464u, 0x4342u), bias);
  }
}

// A lane's registers for the product `step` (0 or 1), in the order of FragmentB.
template <class T, class W>
DEVICE void weightWords(unsigned (&r)[kFragmentWords], const WeightTile<W>& w, int step) {
#if EWE_PATH >= 750
  if constexpr (sizeof(W) == 1) {
    widen<T>(w.piece[0].w[step], r[0], r[1]);
    widen<T>(w.piece[0].w[2 + step], r[2], r[3]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = w.piece[step].w[i];
  }
#else
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (sizeof(W) == 1) {
      widen<T>(w.piece[step].w[i], r[2 * i], r[2 * i + 1]);
    } else {
      r[i] = w.piece[2 * step].w[i];
      r[4 + i] = w.piece[2 * step + 1].w[i];
    }
  }
#endif
}

template <class T, class W>
DEVICE void fragmentOf(FragmentB& b, const WeightTile<W>& w, int step) {
  weightWords<T>(b.r, w, step);
}
template <class T, class W>
DEVICE void fragmentOf(FragmentA& a, const WeightTile<W>& w, int step) {
  weightWords<T>(a.r, w, step);
#if EWE_PATH >= 750
  const unsigned swap = a.r[1];
  a.r[1] = a.r[2];
  a.r[2] = swap;
#endif
}

// ---- Activations: 16 rows x 32 inputs, read where a row is contiguous

#if EWE_PATH >= 750
constexpr int kRowPieces = 2;  // of a lane: 8 inputs of two rows
template <Side side>
DEVICE int rowOfPiece(int i) {
  return lane() / 4 + 8 * i;
}
DEVICE int chunkOfPiece(int) { return lane() % 4; }
#else
constexpr int kRowPieces = 4;  // all 32 inputs of one row
template <Side side>
DEVICE int rowOfPiece(int) {
  return laneRow<side>();
}
DEVICE int chunkOfPiece(int i) { return i; }
#endif

struct RowTile {
  Words4 piece[kRowPieces];
};

DEVICE void fragmentOf(FragmentA& a, const RowTile& x, int step) {
#if EWE_PATH >= 750
#pragma unroll
  for (int i = 0; i < 4; i++) a.r[i] = x.piece[i % 2].w[2 * step + i / 2];
#else
#pragma unroll
  for (int i = 0; i < 8; i++) a.r[i] = x.piece[2 * step + i / 4].w[i % 4];
#endif
}
DEVICE void fragmentOf(FragmentB& b, const RowTile& x, int step) {
#if EWE_PATH >= 750
#pragma unroll
  for (int i = 0; i < 4; i++) b.r[i] = x.piece[i / 2].w[2 * step + i % 2];
#else
#pragma unroll
  for (int i = 0; i < 8; i++) b.r[i] = x.piece[2 * step + i / 4].w[i % 4];
#endif
}

// Inputs [k, k + 8) of a row of `inputs`; those beyond are 0. Rows whose pieces are not aligned to 16 bytes are read number by number.
DEVICE Words4 rowPiece(const void* row, int k, int inputs, bool aligned) {
  const unsigned short* x = static_cast<const unsigned short*>(row);
  Words4 piece = {};
  if (aligned) {
    if (k < inputs) piece = loadConstant(reinterpret_cast<const Words4*>(x + k));
    return piece;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (k + i < inputs) piece.w[i / 2] |= unsigned(load(x + k + i)) << 16 * (i % 2);
  }
  return piece;
}

}  // namespace ewe::kernels

// The operands of the matrix kernels as fragments of tile.cuh's units: weights in the device's order (linear.plan.h) are the left one, int8 made into
// 16-bit numbers in registers; rows of activations are the columns of the right one. Both come in tiles of 16 x 32 inputs, two products of depth 16.
#pragma once
#include "linear.plan.h"
#include "tile.cuh"

namespace ewe::kernels {

// An int8 weight: a whole number with kInt8Bias added.
struct i8 {
  unsigned char biased;
};

// ---- Weights: 16 outputs x 32 inputs

template <class W>
constexpr int kTilePieces = kTileOutputs * kTileInputs * int(sizeof(W)) / 16;  // of 16 bytes
template <class W>
constexpr int kWeightPieces = (kPath >= 750 ? 1 : 2) * int(sizeof(W));  // that a lane loads

// Where a lane's first piece lies in a tile; the next ones lie kWeightStep apart.
#if EWE_PATH >= 750
constexpr int kWeightStep = 32;
DEVICE int weightPlace() { return lane(); }
#else
constexpr int kWeightStep = 16;
DEVICE int weightPlace() { return outputPlace700((quarterOf() & 1) * 8 + halfOf() * 4 + (lane() & 3)); }
#endif

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

// For the product `step`, 0 or 1.
template <class T, class W>
DEVICE void fragmentOf(FragmentA& a, const WeightTile<W>& w, int step) {
#if EWE_PATH >= 750
  if constexpr (sizeof(W) == 1) {
    widen<T>(w.piece[0].w[step], a.r[0], a.r[2]);
    widen<T>(w.piece[0].w[2 + step], a.r[1], a.r[3]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) a.r[i] = w.piece[step].w[i];
  }
#else
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (sizeof(W) == 1) {
      widen<T>(w.piece[step].w[i], a.r[2 * i], a.r[2 * i + 1]);
    } else {
      a.r[i] = w.piece[2 * step].w[i];
      a.r[4 + i] = w.piece[2 * step + 1].w[i];
    }
  }
#endif
}

// ---- Activations: 16 rows x 32 inputs, read where a row is contiguous, in chunks of 8 inputs

#if EWE_PATH >= 750
constexpr int kRowPieces = 2;  // of a lane: one chunk of two rows
DEVICE int rowOfPiece(int i) { return lane() / 4 + 8 * i; }
DEVICE int chunkOfPiece(int) { return lane() % 4; }
#else
constexpr int kRowPieces = 4;  // all chunks of one row
DEVICE int rowOfPiece(int) { return (quarterOf() >> 1) * 8 + halfOf() * 4 + (lane() & 3); }
DEVICE int chunkOfPiece(int i) { return i; }
#endif

struct RowTile {
  Words4 piece[kRowPieces];
};

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

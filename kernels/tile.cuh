// Products of 16 x 16 x 16 as the unit of every matrix kernel, the same on all paths, and what belongs to them: fragments, shared tiles without bank
// conflicts, reductions of fixed order.
//
// A unit is one warp's acc[16 x 16] += a[16 x 16] b[16 x 16]: rows of a times columns of b. On path 750 and up it is two instructions m16n8k16 (on
// 750 four m16n8k8), on path 700 four steps of m8n8k4, where each of the four quad-pairs makes one 8 x 8 quarter. Both spread acc alike: a thread
// holds 8 numbers, element i of them in one of its two rows (slot (i >> 1) & 1), and elements 2j, 2j + 1 in adjacent columns, the even one first.
#pragma once
#include "seam.cuh"

namespace ewe::kernels {

#if EWE_PATH >= 750
constexpr int kFragmentWords = 4;
#else
constexpr int kFragmentWords = 8;
#endif

struct Acc {
  float v[8];
};
struct FragmentA {  // rows of the left operand
  unsigned r[kFragmentWords];
};
struct FragmentB {  // columns of the right operand, from memory where k is contiguous: [n][k]
  unsigned r[kFragmentWords];
};
struct FragmentBt {  // the same from memory where n is contiguous: [k][n]
  unsigned r[kFragmentWords];
};

DEVICE void clear(Acc& acc) {
#pragma unroll
  for (int i = 0; i < 8; i++) acc.v[i] = 0;
}

// ---- Where a thread's numbers lie

#if EWE_PATH >= 750
DEVICE int rowOf(int slot) { return lane() / 4 + 8 * slot; }
DEVICE int columnOf(int i) { return (i >> 2) * 8 + 2 * (lane() % 4) + (i & 1); }
constexpr int kRowMask0 = 1, kRowMask1 = 2;  // lanes that share a row differ in these bits
#else
DEVICE int quarterOf() { return (lane() >> 2) & 3; }  // quad-pair: bit 0 says which rows, bit 1 which columns
DEVICE int halfOf() { return lane() >> 4; }           // which half of the quad-pair
DEVICE int rowOf(int slot) { return (quarterOf() & 1) * 8 + halfOf() * 4 + slot * 2 + (lane() & 1); }
DEVICE int columnOf(int i) { return (quarterOf() >> 1) * 8 + (i & 4) + (lane() & 2) + (i & 1); }
constexpr int kRowMask0 = 2, kRowMask1 = 8;
#endif
constexpr int slotOf(int i) { return (i >> 1) & 1; }

// Over the lanes that share a row, which all get the result.
DEVICE float rowMax(float v) {
  v = maxOf(v, shuffleXor(v, kRowMask0));
  return maxOf(v, shuffleXor(v, kRowMask1));
}
DEVICE float rowSum(float v) {
  v += shuffleXor(v, kRowMask0);
  return v + shuffleXor(v, kRowMask1);
}

// ---- The product

template <class T>
DEVICE void multiply(Acc& acc, const FragmentA& a, const FragmentB& b) {
#if EWE_PATH >= 750
  multiply16816<T>(acc.v, a.r, b.r);
  multiply16816<T>(acc.v + 4, a.r, b.r + 2);
#else
#pragma unroll
  for (int k = 0; k < 4; k++) multiply884<false>(acc.v, a.r + 2 * k, b.r + 2 * k);
#endif
}
template <class T>
DEVICE void multiply(Acc& acc, const FragmentA& a, const FragmentBt& b) {
#if EWE_PATH >= 750
  multiply16816<T>(acc.v, a.r, b.r);
  multiply16816<T>(acc.v + 4, a.r, b.r + 2);
#else
#pragma unroll
  for (int k = 0; k < 4; k++) multiply884<true>(acc.v, a.r + 2 * k, b.r + 2 * k);
#endif
}

// ---- Fragments from shared memory. at(row, half) is the address of 16 bytes: 8 numbers of that row, the first or second half of 16.

// Rows of a: at(row of a, half of k).
template <class At>
DEVICE void loadA(FragmentA& a, At at) {
#if EWE_PATH >= 750
  loadMatrices(a.r, at(lane() & 15, lane() >> 4));
#else
  const int row = (quarterOf() & 1) * 8 + halfOf() * 4 + (lane() & 3);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Words4 words = load(static_cast<const Words4*>(at(row, half)));
#pragma unroll
    for (int i = 0; i < 4; i++) a.r[4 * half + i] = words.w[i];
  }
#endif
}

// Columns of b from [n][k]: at(column of b, half of k).
template <class At>
DEVICE void loadB(FragmentB& b, At at) {
#if EWE_PATH >= 750
  loadMatrices(b.r, at((lane() & 7) + (lane() >> 4) * 8, (lane() >> 3) & 1));
#else
  const int column = (quarterOf() >> 1) * 8 + halfOf() * 4 + (lane() & 3);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Words4 words = load(static_cast<const Words4*>(at(column, half)));
#pragma unroll
    for (int i = 0; i < 4; i++) b.r[4 * half + i] = words.w[i];
  }
#endif
}

// Columns of b from [k][n]: at(k, half of the columns).
template <class At>
DEVICE void loadBt(FragmentBt& b, At at) {
#if EWE_PATH >= 750
  loadMatricesTransposed(b.r, at((lane() & 7) + ((lane() >> 3) & 1) * 8, lane() >> 4));
#else
#pragma unroll
  for (int step = 0; step < 4; step++) {
    const char* row = static_cast<const char*>(at(4 * step + (lane() & 3), quarterOf() >> 1));
    const Words2 words = load(reinterpret_cast<const Words2*>(row + 8 * halfOf()));
    b.r[2 * step] = words.w[0];
    b.r[2 * step + 1] = words.w[1];
  }
#endif
}

// ---- Shared tiles: rows of kChunks pieces of 16 bytes, whose order within a row is such that 8 rows at one column lie in different banks

// kChunks a power of two from 8 on, or 4, or 2: the piece's place is exclusive-ored with its row.
template <int chunks>
DEVICE int swizzled(int row, int chunk) {
  static_assert(chunks == 2 || chunks == 4 || (chunks >= 8 && (chunks & (chunks - 1)) == 0), "other widths are padded");
  if constexpr (chunks >= 8) return row * chunks + (chunk ^ (row & 7));
  if constexpr (chunks == 4) return row * 4 + (chunk ^ ((row >> 1) & 3));
  return row * 2 + (chunk ^ ((row >> 2) & 1));
}

// ---- Over a warp, in an order that depends on nothing; every lane gets the result

DEVICE float warpSum(float v) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) v += shuffleXor(v, mask);
  return v;
}
DEVICE float warpMax(float v) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) v = maxOf(v, shuffleXor(v, mask));
  return v;
}

}  // namespace ewe::kernels

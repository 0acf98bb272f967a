#include "emulator/warp.h"

#include <immintrin.h>

#include <cstring>

namespace ewe::emulator {

// ---- Between lanes

template <class From>
static void exchange(Warp& warp, From from) {
  unsigned long long value[32];
  for (int lane = 0; lane < 32; lane++) value[lane] = warp.post[from(lane, warp.post[lane].argument)].value;
  for (int lane = 0; lane < 32; lane++) warp.post[lane].value = value[lane];
}
const Instruction kShuffleXor = {"shuffleXor", [](Warp& w, Block&) { exchange(w, [](int lane, int mask) { return (lane ^ mask) & 31; }); }};
const Instruction kShuffle = {"shuffle", [](Warp& w, Block&) { exchange(w, [](int, int from) { return from & 31; }); }};
const Instruction kShuffleUp = {"shuffleUp", [](Warp& w, Block&) { exchange(w, [](int lane, int by) { return lane - by < 0 ? lane : lane - by; }); }};
const Instruction kBallot = {"ballot", [](Warp& w, Block&) {
                               unsigned long long bits = 0;
                               for (int lane = 0; lane < 32; lane++) bits |= w.post[lane].value << lane;
                               for (int lane = 0; lane < 32; lane++) w.post[lane].value = bits;
                             }};

// ---- Matrices from shared memory

// Eight rows of 16 bytes are read at once, from 32 banks of 4 bytes: each row takes four banks. Rows that share banks without being the same row are
// read one after the other.
static int conflictsOf(const Post* rows) {
  int most = 0;
  for (int i = 0; i < 8; i++) {
    int different = 0;
    const auto mine = reinterpret_cast<uintptr_t>(rows[i].a) / 16;
    for (int j = 0; j < 8; j++) {
      const auto other = reinterpret_cast<uintptr_t>(rows[j].a) / 16;
      bool counted = other % 8 != mine % 8;
      for (int before = 0; before < j; before++) counted |= reinterpret_cast<uintptr_t>(rows[before].a) / 16 == other;
      different += !counted;
    }
    most = different > most ? different : most;
  }
  return most - 1;
}

template <bool transposed>
static void loadMatrices(Warp& warp, Block& block) {
  unsigned short matrix[4][8][8];
  for (int m = 0; m < 4; m++) {
    for (int row = 0; row < 8; row++) std::memcpy(matrix[m][row], warp.post[8 * m + row].a, 16);
    block.counts.conflicts += conflictsOf(warp.post + 8 * m);
  }
  block.counts.matrixLoads++;
  for (int lane = 0; lane < 32; lane++) {
    const int slow = lane / 4, fast = 2 * (lane % 4);
    auto* r = static_cast<unsigned*>(warp.post[lane].out);
    for (int m = 0; m < 4; m++) {
      const auto& x = matrix[m];
      r[m] = transposed ? x[fast][slow] | unsigned(x[fast + 1][slow]) << 16 : x[slow][fast] | unsigned(x[slow][fast + 1]) << 16;
    }
  }
}
const Instruction kLoadMatrices = {"loadMatrices", loadMatrices<false>};
const Instruction kLoadMatricesTransposed = {"loadMatricesTransposed", loadMatrices<true>};

// ---- Products. Those of 16-bit numbers are exact in a double; eight of them (four in the smallest instruction) are summed in the order of k in
// double and added to the accumulator with one rounding. Cards differ in how they round here, so no test may ask for their bits.

static __m256 widenF16(__m128i bits) { return _mm256_cvtph_ps(bits); }
static __m256 widenBf16(__m128i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)); }

template <__m256 (*widen)(__m128i)>
static void multiply16816(Warp& warp, Block& block) {
  alignas(32) double a[16][16], b[16][8];
  alignas(32) float c[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = 2 * (lane % 4);
    const Post& post = warp.post[lane];
    const __m256 wideA = widen(_mm_loadu_si128(static_cast<const __m128i*>(post.a)));
    const __m256 wideB = widen(_mm_loadl_epi64(static_cast<const __m128i*>(post.b)));
    const __m256d a01 = _mm256_cvtps_pd(_mm256_castps256_ps128(wideA)), a23 = _mm256_cvtps_pd(_mm256_extractf128_ps(wideA, 1));
    alignas(32) double bs[4];
    _mm256_store_pd(bs, _mm256_cvtps_pd(_mm256_castps256_ps128(wideB)));
    const auto* rc = static_cast<const float*>(post.out);
    _mm_store_pd(&a[g][t], _mm256_castpd256_pd128(a01));
    _mm_store_pd(&a[g + 8][t], _mm256_extractf128_pd(a01, 1));
    _mm_store_pd(&a[g][t + 8], _mm256_castpd256_pd128(a23));
    _mm_store_pd(&a[g + 8][t + 8], _mm256_extractf128_pd(a23, 1));
    for (int i = 0; i < 4; i++) {
      b[t + (i & 1) + 8 * (i >> 1)][g] = bs[i];
      c[g + 8 * (i >> 1)][t + (i & 1)] = rc[i];
    }
  }
  for (int i = 0; i < 16; i++) {
    __m128 low = _mm_load_ps(c[i]), high = _mm_load_ps(c[i] + 4);
    for (int half = 0; half < 16; half += 8) {
      __m256d lowSum = _mm256_setzero_pd(), highSum = _mm256_setzero_pd();
      for (int k = half; k < half + 8; k++) {
        const __m256d one = _mm256_broadcast_sd(&a[i][k]);
        lowSum = _mm256_fmadd_pd(one, _mm256_load_pd(b[k]), lowSum);
        highSum = _mm256_fmadd_pd(one, _mm256_load_pd(b[k] + 4), highSum);
      }
      low = _mm256_cvtpd_ps(_mm256_add_pd(_mm256_cvtps_pd(low), lowSum));
      high = _mm256_cvtpd_ps(_mm256_add_pd(_mm256_cvtps_pd(high), highSum));
    }
    _mm_store_ps(c[i], low);
    _mm_store_ps(c[i] + 4, high);
  }
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = 2 * (lane % 4);
    auto* rc = static_cast<float*>(warp.post[lane].out);
    for (int i = 0; i < 4; i++) rc[i] = c[g + 8 * (i >> 1)][t + (i & 1)];
  }
  block.counts.products++;
}
const Instruction kMultiply16816F16 = {"multiply16816 of f16", multiply16816<widenF16>};
const Instruction kMultiply16816Bf16 = {"multiply16816 of bf16", multiply16816<widenBf16>};

static double fromF16(unsigned bits) { return double(_cvtsh_ss((unsigned short)(bits & 0xFFFF))); }

// Quad-pair q: lanes 4q to 4q+3 have the upper rows of a (and, for a b of columns, its left columns), lanes 16+4q to 16+4q+3 the lower (right) ones.
template <bool rowB>
static void multiply884(Warp& warp, Block& block) {
  for (int q = 0; q < 4; q++) {
    double a[8][4], b[4][8];
    for (int i = 0; i < 8; i++) {
      const Post& post = warp.post[4 * q + i % 4 + 16 * (i / 4)];
      const auto* ra = static_cast<const unsigned*>(post.a);
      const auto* rb = static_cast<const unsigned*>(post.b);
      for (int j = 0; j < 4; j++) {
        a[i][j] = fromF16(ra[j / 2] >> 16 * (j % 2));
        (rowB ? b[i % 4][4 * (i / 4) + j] : b[j][i]) = fromF16(rb[j / 2] >> 16 * (j % 2));
      }
    }
    for (int i = 0; i < 8; i++) {
      const int lane = 4 * q + i % 4 + 16 * (i / 4);
      auto* rc = static_cast<float*>(warp.post[lane].out);
      for (int e = 0; e < 8; e++) {
        const int row = (lane & 1) + (e & 2) + 4 * (i / 4), column = (e & 4) + (lane & 2) + (e & 1);
        double sum = 0;
        for (int k = 0; k < 4; k++) sum += a[row][k] * b[k][column];
        rc[e] = float(double(rc[e]) + sum);
      }
    }
  }
  block.counts.products++;
}
const Instruction kMultiply884Row = {"multiply884 of rows", multiply884<true>};
const Instruction kMultiply884Column = {"multiply884 of columns", multiply884<false>};

}  // namespace ewe::emulator

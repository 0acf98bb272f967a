// The masses of ops/draw.h for 16 scores at a time, and sets of lanes.
#pragma once
#include "cpu/simd.h"
#include "ops/draw.h"

namespace ewe::EWE_CPU {

using draw::Mass;

namespace {

constexpr float kNothing = -__builtin_inff();  // below every score

// ---- 16 masses

typedef int64_t MassPart __attribute__((vector_size(4 * kLanes)));
struct Masses {
  MassPart part[2 * kParts];
};

#if defined(__AVX2__)
// draw::massOfDistance: the same operations in the same order.
EWE_INLINE Masses massesOf(Vector d) {
  d = max(d, set(draw::kLowest));
  const Vector shifted = fma(d, set(draw::kLogE), set(draw::kShift));
  const Vector n = shifted + set(-draw::kShift);
  Vector r = fma(n, set(-draw::kLn2High), d);
  r = fma(n, set(-draw::kLn2Low), r);
  Vector p = fma(set(draw::kQ4), r, set(draw::kQ3));
  p = fma(p, r, set(draw::kQ2));
  p = fma(p, r, set(draw::kQ1));
  p = fma(p, r, set(draw::kQ0));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  const Vector exact = floats(bits(p) + (bits(shifted) << 23) + setWords(uint32_t(draw::kUnitBits) << 23));
  Masses m;
#if defined(__AVX512F__)
  const __m512 x = __m512(exact.part[0]);
  m.part[0] = MassPart(_mm512_cvtps_epi64(_mm512_maskz_extractf32x8_ps(0xFF, x, 0)));
  m.part[1] = MassPart(_mm512_cvtps_epi64(_mm512_maskz_extractf32x8_ps(0xFF, x, 1)));
#else
  const __m256d magic = _mm256_set1_pd(0x1p52);
  EWE_PARTS {
    const __m256 x = __m256(exact.part[i]);
    m.part[2 * i] = MassPart(_mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x)), magic)) - MassPart(magic);
    m.part[2 * i + 1] = MassPart(_mm256_add_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)), magic)) - MassPart(magic);
  }
#endif
  return m;
}
#else
EWE_INLINE Masses massesOf(Vector d) {
  float distance[16];
  store(distance, d);
  Mass lanes[16];
  for (int i = 0; i < 16; i++) lanes[i] = draw::massOfDistance(distance[i]);
  Masses m;
  memcpy(&m, lanes, sizeof m);
  return m;
}
#endif

EWE_INLINE void add(Masses& sum, const Masses& m) {
  for (int i = 0; i < 2 * kParts; i++) sum.part[i] += m.part[i];
}
EWE_INLINE Mass total(const Masses& m) {
  Mass lanes[16], sum = 0;
  memcpy(lanes, &m, sizeof lanes);
  for (int i = 0; i < 16; i++) sum += lanes[i];
  return sum;
}

// ---- Sets of lanes, as bits

EWE_INLINE unsigned above(Vector a, Vector b) {  // lanes with a > b
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(__m512(a.part[0]), __m512(b.part[0]), _CMP_GT_OQ);
#elif defined(__AVX2__)
  unsigned lanes = 0;
  EWE_PARTS lanes |= unsigned(_mm256_movemask_ps(_mm256_cmp_ps(__m256(a.part[i]), __m256(b.part[i]), _CMP_GT_OQ))) << (8 * i);
  return lanes;
#else
  unsigned lanes = 0;
  for (int i = 0; i < 16; i++) lanes |= unsigned(a.part[i / kLanes][i % kLanes] > b.part[i / kLanes][i % kLanes]) << i;
  return lanes;
#endif
}

// Writes the chosen lanes of v to `to`, and perhaps rubbish up to 16 floats behind it; returns their number.
EWE_INLINE long pack(float* to, Vector v, unsigned lanes) {
#if defined(__AVX512F__)
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(__mmask16(lanes), __m512(v.part[0])));
  return __builtin_popcount(lanes);
#else
  float all[16];
  store(all, v);
  long count = 0;
  for (; lanes; lanes &= lanes - 1) to[count++] = all[__builtin_ctz(lanes)];
  return count;
#endif
}

EWE_INLINE long padded(long count) { return (count + 15) & ~15L; }
EWE_INLINE void pad(float* scores, long count) { store(scores + count, set(kNothing)); }

}  // namespace
}  // namespace ewe::EWE_CPU

// Vectors of 16 floats, whatever the machine's own width, and the arithmetic that every op of the CPU device is written with.
//
// A Vector is 1, 2 or 4 registers. The same expression means the same sequence of roundings on every set but for fma, which the plain set rounds
// twice.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef EWE_ISA
#error "compile with -DEWE_ISA=<instruction set>"
#endif
#define EWE_JOIN2(a, b) a##b
#define EWE_JOIN(a, b) EWE_JOIN2(a, b)
#define EWE_CPU EWE_JOIN(cpu_, EWE_ISA)
#define EWE_INLINE inline __attribute__((always_inline))

namespace ewe::EWE_CPU {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
#if defined(__AVX512BF16__)
constexpr bool kDotBfloat16 = true;  // has the product of bfloat16 pairs
#else
constexpr bool kDotBfloat16 = false;
#endif
constexpr int kParts = 16 / kLanes;

typedef float FloatPart __attribute__((vector_size(4 * kLanes)));
typedef uint32_t WordPart __attribute__((vector_size(4 * kLanes)));
typedef int32_t MaskPart __attribute__((vector_size(4 * kLanes)));
typedef uint16_t HalfPart __attribute__((vector_size(2 * kLanes)));

struct Vector {
  FloatPart part[kParts];
};
struct Words {
  WordPart part[kParts];
};
struct Mask {
  MaskPart part[kParts];  // all ones or all zeros per lane
};

// Part by part, never as a whole: a copy wider than a register would keep the struct in memory.
#define EWE_PARTS _Pragma("GCC unroll 4") for (int i = 0; i < kParts; i++)

EWE_INLINE Vector load(const float* p) {
  Vector r;
  EWE_PARTS memcpy(&r.part[i], p + i * kLanes, sizeof r.part[i]);
  return r;
}
EWE_INLINE void store(float* p, Vector v) { EWE_PARTS memcpy(p + i * kLanes, &v.part[i], sizeof v.part[i]); }
EWE_INLINE Words loadWords(const void* p) {
  Words r;
  EWE_PARTS memcpy(&r.part[i], static_cast<const uint32_t*>(p) + i * kLanes, sizeof r.part[i]);
  return r;
}
EWE_INLINE Vector set(float x) {
  Vector r;
  EWE_PARTS r.part[i] = x - FloatPart{};
  return r;
}
EWE_INLINE Words setWords(uint32_t x) {
  Words r;
  EWE_PARTS r.part[i] = x - WordPart{};
  return r;
}
EWE_INLINE Vector zero() { return Vector{}; }

// The first n lanes of p, zeros behind them.
EWE_INLINE Vector loadFirst(const float* p, int n) {
  alignas(64) float lanes[16] = {};
  memcpy(lanes, p, size_t(n) * 4);
  return load(lanes);
}
EWE_INLINE void storeFirst(float* p, Vector v, int n) {
  alignas(64) float lanes[16];
  store(lanes, v);
  memcpy(p, lanes, size_t(n) * 4);
}

EWE_INLINE Vector operator+(Vector a, Vector b) {
  EWE_PARTS a.part[i] += b.part[i];
  return a;
}
EWE_INLINE Vector operator-(Vector a, Vector b) {
  EWE_PARTS a.part[i] -= b.part[i];
  return a;
}
EWE_INLINE Vector operator*(Vector a, Vector b) {
  EWE_PARTS a.part[i] *= b.part[i];
  return a;
}
EWE_INLINE Vector operator/(Vector a, Vector b) {
  EWE_PARTS a.part[i] /= b.part[i];
  return a;
}
EWE_INLINE Words operator+(Words a, Words b) {
  EWE_PARTS a.part[i] += b.part[i];
  return a;
}
EWE_INLINE Words operator&(Words a, Words b) {
  EWE_PARTS a.part[i] &= b.part[i];
  return a;
}
EWE_INLINE Words operator|(Words a, Words b) {
  EWE_PARTS a.part[i] |= b.part[i];
  return a;
}
EWE_INLINE Words operator<<(Words a, int bits) {
  EWE_PARTS a.part[i] <<= bits;
  return a;
}
EWE_INLINE Words operator>>(Words a, int bits) {
  EWE_PARTS a.part[i] >>= bits;
  return a;
}
EWE_INLINE Mask operator<(Vector a, Vector b) {
  Mask r;
  EWE_PARTS r.part[i] = a.part[i] < b.part[i];
  return r;
}
EWE_INLINE Mask operator<(Words a, Words b) {
  Mask r;
  EWE_PARTS r.part[i] = a.part[i] < b.part[i];
  return r;
}
EWE_INLINE Words bits(Vector a) {
  Words r;
  EWE_PARTS r.part[i] = WordPart(a.part[i]);
  return r;
}
EWE_INLINE Vector floats(Words a) {
  Vector r;
  EWE_PARTS r.part[i] = FloatPart(a.part[i]);
  return r;
}
EWE_INLINE Vector select(Mask m, Vector a, Vector b) {
  EWE_PARTS a.part[i] = m.part[i] ? a.part[i] : b.part[i];
  return a;
}
EWE_INLINE Words select(Mask m, Words a, Words b) {
  EWE_PARTS a.part[i] = m.part[i] ? a.part[i] : b.part[i];
  return a;
}
// Both give b where one of the two is not a number.
EWE_INLINE Vector max(Vector a, Vector b) { return select(b < a, a, b); }
EWE_INLINE Vector min(Vector a, Vector b) { return select(a < b, a, b); }
// The lanes from 0 to n - 1.
alignas(64) constexpr uint32_t kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
EWE_INLINE Mask firstLanes(int n) { return loadWords(kLane) < setWords(uint32_t(n)); }

// a * b + c, rounded once (on the plain set twice).
EWE_INLINE Vector fma(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
  c.part[0] = FloatPart(_mm512_fmadd_ps(__m512(a.part[0]), __m512(b.part[0]), __m512(c.part[0])));
  return c;
#elif defined(__AVX2__)
  EWE_PARTS c.part[i] = FloatPart(_mm256_fmadd_ps(__m256(a.part[i]), __m256(b.part[i]), __m256(c.part[i])));
  return c;
#else
  return a * b + c;
#endif
}

// Sums and maxima of the lanes in one fixed order: halves onto each other.
EWE_INLINE float sum(Vector v) {
  alignas(64) float x[16];
  store(x, v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}
EWE_INLINE float maximum(Vector v) {
  alignas(64) float x[16];
  store(x, v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  return x[0];
}

// ---- 16-bit numbers

EWE_INLINE Words widen(const uint16_t* p) {
  Words r;
  EWE_PARTS {
    HalfPart h;
    memcpy(&h, p + i * kLanes, sizeof h);
    r.part[i] = __builtin_convertvector(h, WordPart);
  }
  return r;
}
EWE_INLINE void storeHalves(uint16_t* p, Words w) {
  EWE_PARTS {
    HalfPart h = __builtin_convertvector(w.part[i], HalfPart);
    memcpy(p + i * kLanes, &h, sizeof h);
  }
}

EWE_INLINE Vector fromBfloat16(const uint16_t* p) { return floats(widen(p) << 16); }
// 16 pairs: the even and the odd elements.
EWE_INLINE Vector evenBfloat16(Words pairs) { return floats(pairs << 16); }
EWE_INLINE Vector oddBfloat16(Words pairs) { return floats(pairs & setWords(0xffff0000u)); }

// To the nearest, ties to even, subnormal numbers kept (the machine's own conversion drops them). The result is in the low half of each word.
EWE_INLINE Words roundBfloat16(Vector v) {
  Words w = bits(v);
  Words rounded = (w + setWords(0x7fff) + ((w >> 16) & setWords(1))) >> 16;
  Words quiet = (w >> 16) | setWords(0x40);
  return select(setWords(0x7f800000u) < (w & setWords(0x7fffffffu)), quiet, rounded);
}
EWE_INLINE uint16_t roundBfloat16(float x) {
  uint32_t w;
  memcpy(&w, &x, 4);
  if ((w & 0x7fffffffu) > 0x7f800000u) return uint16_t((w >> 16) | 0x40);
  return uint16_t((w + 0x7fff + ((w >> 16) & 1)) >> 16);
}
EWE_INLINE float fromBfloat16(uint16_t h) {
  uint32_t w = uint32_t(h) << 16;
  float x;
  memcpy(&x, &w, 4);
  return x;
}

EWE_INLINE Vector fromFloat16(const uint16_t* p) {
#if defined(__AVX512F__)
  Vector r;  // all lanes are asked for: the plain form starts from an undefined vector, which the compiler warns of
  r.part[0] = FloatPart(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  return r;
#elif defined(__AVX2__)
  Vector r;
  EWE_PARTS r.part[i] = FloatPart(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * kLanes))));
  return r;
#else
  // The exponent's bias differs by 112, which one product sets right for subnormal numbers too; infinities and NaNs keep the largest exponent.
  Words h = widen(p), magnitude = (h & setWords(0x7fff)) << 13;
  Words finite = bits(floats(magnitude) * set(0x1p112f));
  Words special = magnitude | setWords(0x7f800000u);
  return floats(select(setWords(0x0f7fffffu) < magnitude, special, finite) | ((h & setWords(0x8000)) << 16));
#endif
}
EWE_INLINE uint16_t roundFloat16(float x) {  // to the nearest, ties to even
  uint32_t w;
  memcpy(&w, &x, 4);
  uint32_t sign = (w >> 16) & 0x8000, magnitude = w & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                                 // below 2^-14: adding 0.5 leaves multiples of 2^-24
    float f;
    memcpy(&f, &magnitude, 4);
    f += 0.5f;
    memcpy(&magnitude, &f, 4);
    return uint16_t(sign | (magnitude - 0x3f000000u));
  }
  magnitude += 0xfff + ((magnitude >> 13) & 1);
  return uint16_t(sign | ((magnitude - 0x38000000u) >> 13));
}

// ---- whole numbers of 8 bits

// Of the four in each word, that of one byte, times 2^24: it lies in the upper byte, with zeros below it, when it is converted. That is one step less
// than its value.
constexpr float kByteUnit = 0x1p24f;
EWE_INLINE Vector byteOf(Words four, int byte) {
  Words upper = four & setWords(0xff000000);
#if defined(__AVX512F__)
  const int from = byte << 24;  // the upper byte of each word comes from there, 0x80 gives the zeros
  if (byte < 3) {
    const __m512i order = _mm512_set4_epi32(from + 0x0c808080, from + 0x08808080, from + 0x04808080, from + 0x00808080);
    upper.part[0] = WordPart(_mm512_shuffle_epi8(__m512i(four.part[0]), order));
  }
#elif defined(__AVX2__)
  const int from = byte << 24;
  if (byte < 3) {
    const __m128i order = _mm_set_epi32(from + 0x0c808080, from + 0x08808080, from + 0x04808080, from + 0x00808080);
    EWE_PARTS upper.part[i] = WordPart(_mm256_shuffle_epi8(__m256i(four.part[i]), _mm256_broadcastsi128_si256(order)));
  }
#else
  upper = (four << (24 - 8 * byte)) & setWords(0xff000000);
#endif
  Vector r;
  EWE_PARTS r.part[i] = __builtin_convertvector(MaskPart(upper.part[i]), FloatPart);
  return r;
}

// ---- functions

// Relative error below 2e-7 (1.5 units in the last place); 0 below -87, where e^x leaves the normal numbers, and e^88 above 88. NaN stays NaN.
EWE_INLINE Vector exp(Vector x) {
  const Vector shift = set(12582912.f);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  Vector y = max(set(-87.f), min(set(88.f), x));
  Vector shifted = fma(y, set(1.44269504088896f), shift), n = shifted - shift;
  Vector r = fma(n, set(2.12194440e-4f), fma(n, set(-0.693359375f), y));  // ln 2 in two parts; n times the first is exact
  Vector p = set(1.3814609e-3f);
  p = fma(p, r, set(8.3687110e-3f));
  p = fma(p, r, set(4.1668389e-2f));
  p = fma(p, r, set(0.16666521f));
  p = fma(p, r, set(0.49999994f));
  p = fma(p * r, r, r) + set(1.f);
  Vector power = floats((bits(shifted) << 23) + setWords(0x3f800000u));
  return select(x < set(-87.f), zero(), p * power);
}

// 1 / (1 + e^-x)
EWE_INLINE Vector sigmoid(Vector x) { return set(1.f) / (set(1.f) + exp(zero() - x)); }

// x (1 + erf(x / sqrt 2)) / 2 as max(x, 0) - a T(a) with a = |x| and T(a) = erfc(a / sqrt 2) / 2 = e^(-a^2 / 2) R(a). In t = 1 / (1 + 0.35 a), R is t
// times a polynomial within 4e-8 on [0, 14] (least maximum of the relative error); beyond 14 the tail is 0. Error below 2e-7 max(1, |x|).
EWE_INLINE Vector gelu(Vector x) {
  Vector a = min(set(14.f), floats(bits(x) & setWords(0x7fffffffu)));
  Vector t = set(1.f) / fma(a, set(0.35f), set(1.f));
  Vector p = set(-0.02914614f);
  p = fma(p, t, set(0.14397271f));
  p = fma(p, t, set(-0.25571632f));
  p = fma(p, t, set(0.1591765f));
  p = fma(p, t, set(-0.023111418f));
  p = fma(p, t, set(0.10550866f));
  p = fma(p, t, set(0.1198327f));
  p = fma(p, t, set(0.1398619f));
  p = fma(p, t, set(0.1396214f));
  Vector tail = exp(a * a * set(-0.5f)) * (p * t);
  return max(zero(), x) - a * tail;
}

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2 / pi) (...))
EWE_INLINE Vector geluTanh(Vector x) {
  Vector inner = x * fma(x * x, set(0.0713548162726f), set(1.595769121605731f));
  return x * sigmoid(inner);
}

}  // namespace ewe::EWE_CPU

// The arithmetic of sampling, one definition for all devices: the same logits, settings and seed give the same token and the same log-probabilities
// everywhere. Read by g++, nvcc and NVRTC, so without a standard header; never to be compiled with fast-math or with contraction of a * b + c.
//
// How that is reached: each score goes through a few fp32 operations that IEEE 754 defines to the bit (fma written out), and becomes an integer mass.
// From there on there are only integers, whose sums have one value in any order: a device may cut a row among threads as it likes.
//
// One row, with V logits:
//   1. score = score(logit, ...), where the logits that are adjusted are sum(logit, adjustment): repetition penalty, temperature, no NaN, no
//   infinity, no
//      negative zero. best = the largest score.
//   2. Temperature 0: the token is the lowest id whose score is best. Otherwise mass_i = mass(score_i, best), and ids are removed:
//   3. top-k (0 < k < V): all ids with a score below the k-th largest. Every tie with the k-th stays.
//   4. top-p (p < 1): what stays is the shortest beginning of the ids, ordered by falling score and among equals by rising id, whose mass reaches
//      nucleus(p, total), where total is the mass that top-k left.
//   5. min-p (> 0): ids with mass_i < floorOf(minP).
//   6. token = the first id, by rising id, at which the running sum of the masses that stayed exceeds place(random(...), their sum).
//      The best id always stays and an id of mass 0 can't be drawn.
// Border searches need no sort: a threshold on key(score) is found by radix or bisection over integer sums, ties at it are counted by id.
//
// Log-probabilities are those of the raw logits, before 1 to 6: the scores for penalty 1 and temperature 1, their best, the sum of all their masses,
// then logProb(). A NaN logit counts as the lowest score, so that the draw stays defined, but makes the row's log-probabilities NaN: this is how
// the caller learns that the model broke. Infinite logits count as the largest finite ones; the log-probability of -inf is -inf.
#pragma once

#ifdef __CUDACC__
#define EWE_DRAW static __device__ __forceinline__
#else
#define EWE_DRAW static inline
#endif

namespace ewe::draw {

// A probability times the row's total. The best id has mass kUnit = 2^44. Rows hold at most 2^18 ids, so a sum is at most 2^62 and fits 63 bits with
// room for one more. One step is 2^-44 = 5.7e-14 of the best id's mass, and of the total at most; rounding all 2^18 masses moves the total by less
// than 2^18 * 2^-45 = 7.5e-9 of it.
using Mass = unsigned long long;
constexpr int kUnitBits = 44;
constexpr Mass kUnit = Mass(1) << kUnitBits;
constexpr int kMaxVocab = 1 << 18;

constexpr float kLargest = 3.402823466385288598e38f;  // the largest finite fp32 number

// ---- What each compiler calls the operations of IEEE 754 and of wide integers

#ifdef __CUDACC__
EWE_DRAW unsigned bitsOf(float x) { return __float_as_uint(x); }
EWE_DRAW float floatOf(unsigned bits) { return __uint_as_float(bits); }
EWE_DRAW unsigned long long bitsOf(double x) { return (unsigned long long)__double_as_longlong(x); }
EWE_DRAW double doubleOf(unsigned long long bits) { return __longlong_as_double((long long)bits); }
EWE_DRAW float sum(float a, float b) { return __fadd_rn(a, b); }
EWE_DRAW float product(float a, float b) { return __fmul_rn(a, b); }
EWE_DRAW float quotient(float a, float b) { return __fdiv_rn(a, b); }
EWE_DRAW float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
EWE_DRAW double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
EWE_DRAW Mass rounded(float x) { return __float2ull_rn(x); }
EWE_DRAW unsigned long long productHigh(unsigned long long a, unsigned long long b) { return __umul64hi(a, b); }
#else
EWE_DRAW unsigned bitsOf(float x) {
  unsigned bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
EWE_DRAW float floatOf(unsigned bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
EWE_DRAW unsigned long long bitsOf(double x) {
  unsigned long long bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
EWE_DRAW double doubleOf(unsigned long long bits) {
  double x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
EWE_DRAW float sum(float a, float b) { return a + b; }
EWE_DRAW float product(float a, float b) { return a * b; }
EWE_DRAW float quotient(float a, float b) { return a / b; }
EWE_DRAW float fma(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(a, b, c);
#else
  // A processor without fma. The product is exact in double, so the sum is rounded twice, to 53 and to 24 bits. That differs from rounding once only
  // where the first result lies halfway between two fp32 numbers: the C library's slow function decides there. (Normal results only, as all here.)
  const double twice = double(a) * double(b) + double(c);
  if ((bitsOf(twice) & 0x1FFFFFFF) == 0x10000000) return __builtin_fmaf(a, b, c);
  return float(twice);
#endif
}
EWE_DRAW double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
// To nearest, ties to even, for 0 <= x < 2^52: in the double x + 2^52 the low 52 bits are that integer.
EWE_DRAW Mass rounded(float x) { return bitsOf(double(x) + 0x1p52) - bitsOf(0x1p52); }
EWE_DRAW unsigned long long productHigh(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 Wide;
  return (unsigned long long)(Wide(a) * b >> 64);
}
#endif

// ---- Scores

// A logit or a scaled one as a score: finite, ordered, and with one zero. NaN becomes the lowest.
EWE_DRAW float tame(float x) {
  x = x > -kLargest ? (x < kLargest ? x : kLargest) : -kLargest;
  return sum(x, 0.0f);
}

// `repeated` says that the id occurs in the history. It depends on the logit alone, so an id that occurs often may be written often.
EWE_DRAW float score(float logit, bool repeated, float penalty, float temperature) {
  if (repeated) logit = logit < 0 ? product(logit, penalty) : quotient(logit, penalty);
  if (temperature > 0) logit = quotient(logit, temperature);
  return tame(logit);
}

// Integers in the order of the scores.
EWE_DRAW unsigned key(float score) {
  const unsigned bits = bitsOf(score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// ---- Masses

// exp(d) = 2^n exp(r) with n = round(d / ln 2) and r = d - n ln 2, |r| < 0.3467. ln 2 has two parts: the first has 17 bits, so that its product with
// n (6 bits) is exact, both together are off by 5.5e-14. exp(r) = 1 + r + r^2 q(r), where q minimises the relative error: 3.2e-9 with these
// coefficients, so fp32 rounding dominates.
constexpr float kLogE = 0x1.715476p+0f;  // 1 / ln 2
constexpr float kShift = 0x1.8p23f;      // added, it leaves the rounded integer in the lowest bits
constexpr float kLn2High = 0x1.62e4p-1f;
constexpr float kLn2Low = 0x1.7f7d1cp-20f;
constexpr float kQ0 = 0x1.fffffcp-2f, kQ1 = 0x1.55548cp-3f, kQ2 = 0x1.555858p-5f, kQ3 = 0x1.123dep-7f, kQ4 = 0x1.6ac74ep-10f;
// exp(-32) * 2^44 = 0.22 rounds to 0: nothing below it needs to be told apart, and n stays small.
constexpr float kLowest = -32.0f;

// round(2^44 exp(d)) for d = score - best, at most 0. Exactly kUnit for 0.
EWE_DRAW Mass massOfDistance(float d) {
  d = d > kLowest ? d : kLowest;
  const float shifted = fma(d, kLogE, kShift);
  const float n = sum(shifted, -kShift);
  float r = fma(n, -kLn2High, d);
  r = fma(n, -kLn2Low, r);
  float p = fma(kQ4, r, kQ3);
  p = fma(p, r, kQ2);
  p = fma(p, r, kQ1);
  p = fma(p, r, kQ0);
  p = fma(p, r, 1.0f);
  p = fma(p, r, 1.0f);
  // The exponent grows by n + 44. The shift drops all of kShift's bits; between 2^-3 and 2^44 nothing over- or underflows.
  return rounded(floatOf(bitsOf(p) + (bitsOf(shifted) << 23) + (unsigned(kUnitBits) << 23)));
}
EWE_DRAW Mass mass(float score, float best) { return massOfDistance(sum(score, -best)); }

// The least mass that top-p asks for: the smallest integer not below p * total, so that exactly p counts as reached; at least 1. p < 1 is taken as
// the exact value of the fp32 number (to 2^-64), total is at most 2^62.
EWE_DRAW Mass nucleus(float p, Mass total) {
  const unsigned long long share = (unsigned long long)product(p, 0x1p64f);
  const Mass need = productHigh(share, total) + (share * total != 0 ? 1 : 0);
  return need > 0 ? need : 1;
}

// The least mass that min-p keeps: the smallest integer not below minP * kUnit; 0 <= minP <= 1.
EWE_DRAW Mass floorOf(float minP) {
  const float exact = product(minP, 0x1p44f);
  const Mass whole = (Mass)exact;
  return whole + (float(whole) < exact ? 1 : 0);
}

// ---- The draw

struct Words {
  unsigned w[4];
};

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): a bijection of the counter that the key selects.
EWE_DRAW Words philox(Words counter, unsigned key0, unsigned key1) {
  unsigned a = counter.w[0], b = counter.w[1], c = counter.w[2], d = counter.w[3];
  for (int round = 0; round < 10; round++) {
    const unsigned long long x = 0xD2511F53ull * a, y = 0xCD9E8D57ull * c;
    a = unsigned(y >> 32) ^ b ^ key0;
    c = unsigned(x >> 32) ^ d ^ key1;
    b = unsigned(y);
    d = unsigned(x);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

// The 64 random bits of one token: the seed is the key; the counter is (position, sample, 0, 0).
EWE_DRAW unsigned long long random(unsigned long long seed, unsigned sample, unsigned position) {
  const Words words = philox({{position, sample, 0, 0}}, unsigned(seed), unsigned(seed >> 32));
  return (unsigned long long)words.w[1] << 32 | words.w[0];
}

// Where in [0, kept) the draw falls; each place is hit with probability 1 / kept to within 2^-64.
EWE_DRAW Mass place(unsigned long long random, Mass kept) { return productHigh(random, kept); }

// ---- Log-probabilities

// ln(total / kUnit), in double: one value per row. NaN if the row holds a NaN.
EWE_DRAW double logTotal(Mass total, bool nan) {
  if (nan) return doubleOf(0x7FF8000000000000ull);
  const double x = double((long long)total);
  // x = 2^k m with m in [0.75, 1.5).
  const long long above = (long long)(bitsOf(x) - bitsOf(0.75));
  const long long k = above >> 52;
  const double m = doubleOf(bitsOf(x) - ((unsigned long long)k << 52));
  // ln m = 2 artanh(s) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), |s| <= 0.2: what is left out is below 2e-15.
  const double s = (m - 1) / (m + 1), z = fma(s, s, 0.0);
  double t = fma(z, 1.0 / 19, 1.0 / 17);
  t = fma(t, z, 1.0 / 15);
  t = fma(t, z, 1.0 / 13);
  t = fma(t, z, 1.0 / 11);
  t = fma(t, z, 1.0 / 9);
  t = fma(t, z, 1.0 / 7);
  t = fma(t, z, 1.0 / 5);
  t = fma(t, z, 1.0 / 3);
  t = fma(t, z, 1.0);
  return fma(double(k - kUnitBits), 0x1.62e42fefa39efp-1, fma(t, s + s, 0.0));
}

// Of an id with this raw logit; best is the largest raw score.
EWE_DRAW float logProb(float logit, float best, double logTotal) {
  return float(double(logit < kLargest ? logit : kLargest) - double(best) - logTotal);
}

}  // namespace ewe::draw

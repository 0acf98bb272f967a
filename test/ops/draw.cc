// The arithmetic of ops/draw.h against its definition and against the same in double.
#include "ops/draw.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "cpu/cpu.h"
#include "expect.h"

// Every instruction set has its vectors of draw::mass, 16 at a time.
namespace ewe {
namespace cpu_plain {
void masses(const float* scores, long count, float best, draw::Mass* out);
}
#if defined(__x86_64__)
namespace cpu_avx2 {
void masses(const float* scores, long count, float best, draw::Mass* out);
}
namespace cpu_avx512 {
void masses(const float* scores, long count, float best, draw::Mass* out);
}
namespace cpu_avx512bf16 {
void masses(const float* scores, long count, float best, draw::Mass* out);
}
#endif
}  // namespace ewe

namespace ewe::test {

using draw::Mass;

static void philox(Run& run) {
  // Random123, tests/kat_vectors: counter, key, result.
  const unsigned known[3][10] = {
      {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
      {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
      {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
  };
  for (const auto& k : known) {
    const draw::Words words = draw::philox({{k[0], k[1], k[2], k[3]}}, k[4], k[5]);
    for (int i = 0; i < 4; i++) EXPECT(words.w[i] == k[6 + i], "word %d is %08x, not %08x", i, words.w[i], k[6 + i]);
  }
  // Which words of counter and key seed, sample and position are.
  const draw::Words words = draw::philox({{7, 5, 0, 0}}, 0x89abcdef, 0x01234567);
  EXPECT(draw::random(0x0123456789abcdefull, 5, 7) == ((unsigned long long)words.w[1] << 32 | words.w[0]), "other words");
}

// Every 1009th fp32 number from -33 to 0, and the neighbourhood of the ends.
template <class F>
static void eachDistance(F f) {
  const unsigned last = draw::bitsOf(-33.0f);
  for (unsigned bits = draw::bitsOf(-1e-9f); bits <= last; bits += 1009) f(draw::floatOf(bits));
  for (unsigned i = 0; i < 1000; i++) f(draw::floatOf(draw::bitsOf(-32.0f) + i - 500));
  for (float d : {0.0f, -0.0f, -1e-45f, -1e-38f, -1e-10f, -34.0f, -1e30f, -draw::kLargest, -INFINITY}) f(d);
}

static void masses(Run& run) {
  // Rounding in units of 2^-24 of the result: the last fma 1, the one before 0.35 (it is multiplied by |r|), those before 0.06, r itself 0.25; the
  // polynomial 0.05. Rounding to an integer adds half a step.
  const double relative = 1.75 * 0x1p-24, absolute = 0x1p-45;
  double worst = 0;
  eachDistance([&](float d) {
    const double exact = std::exp(double(d)), is = double(draw::massOfDistance(d)) * 0x1p-44;
    EXPECT(std::fabs(is - exact) <= relative * exact + absolute, "exp(%.9g) is %.17g, not %.17g", double(d), is, exact);
    EXPECT(draw::massOfDistance(d) <= draw::kUnit, "exp(%.9g) is above 1", double(d));
    EXPECT(d > -31.2f || draw::massOfDistance(d) == 0, "exp(%.9g) is not 0", double(d));
    if (d > -14) worst = std::max(worst, std::fabs(is - exact) / exact);
  });
  EXPECT(draw::massOfDistance(0) == draw::kUnit && draw::massOfDistance(-0.0f) == draw::kUnit, "exp(0) is not 1");
  EXPECT(worst > 0x1p-25, "the comparison measured nothing: worst error %g", worst);
}

static void fusedMultiplyAdd(Run& run) {
  Random random(1);
  int halfway = 0;
  const auto check = [&](float a, float b, float c) {
    const float is = draw::fma(a, b, c), exact = std::fma(a, b, c);
    EXPECT(is == exact, "fma(%a, %a, %a) is %a, not %a", double(a), double(b), double(c), double(is), double(exact));
    halfway += float(double(a) * double(b) + double(c)) != exact;
  };
  const auto mantissa = [&] { return draw::floatOf(0x3F800000 | (unsigned(random.next()) & 0x7FFFFF)); };
  for (int i = 0; i < 100000; i++) {
    const float sign = random.below(2) ? 1 : -1;
    check(mantissa(), mantissa(), std::ldexp(mantissa(), random.below(60) - 30) * sign);
    // (1 + e)(1 - e) 2^-24 lies so little below half a unit in the last place of c that a double rounds it up to the half.
    const float e = float(1 + random.below(100)) * 0x1p-23f;
    check(1 + e, (1 - e) * 0x1p-24f * sign, mantissa());
  }
  EXPECT(halfway > 1000, "only %d cases in which rounding twice would show", halfway);
}

static void keys(Run& run) {
  const float ordered[] = {-draw::kLargest, -1e30f, -1, -1e-38f, -1e-45f, 0, 1e-45f, 1e-38f, 1, 1e30f, draw::kLargest};
  for (size_t i = 1; i < std::size(ordered); i++)
    EXPECT(draw::key(ordered[i - 1]) < draw::key(ordered[i]), "%g and %g", double(ordered[i - 1]), double(ordered[i]));
  EXPECT(draw::key(draw::tame(-0.0f)) == draw::key(draw::tame(0.0f)), "-0 and 0 differ");
  EXPECT(draw::tame(NAN) == -draw::kLargest && draw::tame(-INFINITY) == -draw::kLargest && draw::tame(INFINITY) == draw::kLargest, "not tame");
}

static void shares(Run& run) {
  EXPECT(draw::nucleus(0.5f, 8) == 4 && draw::nucleus(0.5f, 9) == 5 && draw::nucleus(0.75f, 4 * draw::kUnit) == 3 * draw::kUnit, "exact shares");
  EXPECT(draw::nucleus(1e-30f, 1000) == 1, "at least one step");
  EXPECT(draw::floorOf(0) == 0 && draw::floorOf(1) == draw::kUnit && draw::floorOf(0.25f) == draw::kUnit / 4 && draw::floorOf(1e-20f) == 1, "floors");
  Random random(2);
  for (int i = 0; i < 100000; i++) {
    const float p = std::ldexp(float(random.next() >> 40) + 1, -25 - random.below(15));
    const Mass total = draw::kUnit + random.next() % (Mass(1) << (44 + random.below(18)));
    // p has 24 bits and is a multiple of 2^-40, so that p * total fits 128 bits as an integer.
    __extension__ typedef unsigned __int128 Wide;
    const Wide product = Wide((unsigned long long)std::ldexp(p, 64)) * total;
    const Mass exact = Mass((product + ((Wide(1) << 64) - 1)) >> 64);
    EXPECT(draw::nucleus(p, total) == exact, "nucleus(%a, %llu)", double(p), total);
    EXPECT(double(draw::floorOf(p)) == std::ceil(double(p) * 0x1p44), "floorOf(%a)", double(p));
  }
}

static void logarithm(Run& run) {
  Random random(3);
  for (int i = 0; i < 50000; i++) {
    const Mass total = draw::kUnit + random.next() % (Mass(1) << (1 + random.below(61)));
    const double exact = double(std::log((long double)total) - 44 * std::log(2.0L));
    EXPECT(std::fabs(draw::logTotal(total, false) - exact) < 1e-13, "%llu: %.17g, not %.17g", total, draw::logTotal(total, false), exact);
  }
  EXPECT(draw::logTotal(draw::kUnit, false) == 0, "ln 1");
  EXPECT(std::isnan(draw::logTotal(draw::kUnit, true)), "a NaN must show");
}

static void sameMasses(Run& run) {
  struct Set {
    const char* name;
    void (*masses)(const float*, long, float, Mass*);
  };
  const Set sets[] = {
    {"plain", cpu_plain::masses},
#if defined(__x86_64__)
    {"avx2", cpu_avx2::masses},
    {"avx512", cpu_avx512::masses},
    {"avx512bf16", cpu_avx512bf16::masses},
#endif
  };
  std::vector<float> distances;
  eachDistance([&](float d) { distances.push_back(d); });
  distances.resize((distances.size() + 15) / 16 * 16, -1.0f);
  std::vector<Mass> out(distances.size());
  for (const Set& set : sets) {
    if (!cpuSupports(set.name)) continue;
    std::fill(out.begin(), out.end(), ~Mass(0));
    set.masses(distances.data(), long(distances.size()), 0, out.data());
    for (size_t i = 0; i < out.size(); i++)
      EXPECT(out[i] == draw::massOfDistance(distances[i]), "%s: exp(%.9g) is %llu, not %llu", set.name, double(distances[i]), out[i],
             draw::massOfDistance(distances[i]));
  }
}

static Suite suite([](Cases& cases) {
  cases.once("draw/philox4x32-10 gives the known answers of its authors", philox);
  cases.once("draw/masses are exp to the precision of float32, at most the unit, and 0 from -31.2 down", masses);
  cases.once("draw/masses have the same bits on every instruction set", sameMasses);
  cases.once("draw/fma without the instruction is rounded once", fusedMultiplyAdd);
  cases.once("draw/keys keep the order of scores, with one zero", keys);
  cases.once("draw/shares of top-p and min-p are the least integers that reach them", shares);
  cases.once("draw/the logarithm of a total is right to 1e-13", logarithm);
});

}  // namespace ewe::test

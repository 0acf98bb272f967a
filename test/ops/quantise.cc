// The int8 quantiser, held against its definition in double precision, where x / scale is exact enough to tell on which side of a tie it lies.
#include "ops/quantise.h"
#include "cases.h"

#include <cfloat>

namespace ewe::test {

static float quantisedOf(float x, float scale) {
  float q;
  quantise(&x, 1, scale, &q);
  return q;
}

// One row and all that is promised of it.
static std::string problemOf(const Floats& row) {
  float largest = 0;
  for (float x : row) largest = std::max(largest, std::fabs(x));
  const float found = largestOf(row.data(), int64_t(row.size())), scale = scaleOf(found);
  char text[160];
  auto problem = [&](const char* what, double x, double q) {
    std::snprintf(text, sizeof text, "%s: x = %.9g, q = %g, scale = %.9g, largest = %.9g", what, x, q, scale, largest);
    return std::string(text);
  };
  if (found != largest) return problem("not the largest magnitude", found, 0);
  if (!std::isnormal(scale) || scale < 0) return problem("not a positive normal scale", 0, 0);
  if (!std::isfinite(127 * scale)) return problem("127 times the scale overflows", 0, 0);
  // A quotient of two floats has a double that rounds to the same float.
  const double exact = double(float(double(largest) / 127));
  const bool clamped = exact < FLT_MIN || std::isinf(127 * float(exact));
  if (largest == 0 ? scale != 1 : !clamped && scale != exact) return problem("not the scale of the definition", 0, 0);

  Floats whole(row.size());
  quantise(row.data(), int64_t(row.size()), scale, whole.data());
  for (size_t i = 0; i < row.size(); i++) {
    const double x = row[i], q = whole[i];
    if (q != std::nearbyint(q) || std::fabs(q) > 127) return problem("no whole number from -127 to 127", x, q);
    if (std::fabs(x - scale * q) > scale * (0.5 + 0x1p-17)) return problem("more than half a scale away", x, q);
    if (q != std::nearbyint(double(float(x / scale)))) return problem("not the nearest", x, q);
    if (std::fabs(x) == largest && largest >= 127 * double(FLT_MIN) && std::fabs(q) != 127) return problem("the largest is not 127", x, q);
  }
  return {};
}

// Rows of all lengths, of magnitudes from subnormal numbers to the largest ones.
static void everyRow(Run& run) {
  Random random(1);
  for (int exponent = -149; exponent <= 127; exponent++) {
    for (int trial = 0; trial < 20; trial++) {
      Floats row(size_t(1 + random.below(70)));
      for (float& x : row) x = float(std::ldexp((random.uniform() * 2 - 1) * (trial % 4 ? 1 : random.uniform()), exponent + 1));
      for (float& x : row) x = std::isinf(x) ? FLT_MAX : x;
      const std::string problem = problemOf(row);
      run.expect(problem.empty(), problem);
    }
  }
}

static void extremes(Run& run) {
  for (const Floats& row :
       {Floats{0, 0, 0}, Floats{-0.f}, Floats{FLT_MAX, 1, -FLT_MAX}, Floats{std::nextafter(FLT_MAX, 0.f), FLT_MAX / 127, -FLT_MAX / 254},
        Floats{FLT_TRUE_MIN, 0, -FLT_TRUE_MIN}, Floats{FLT_MIN, FLT_MIN / 2, -FLT_MIN / 2}, Floats{127 * FLT_MIN, 63.5f * FLT_MIN, FLT_MIN / 2},
        Floats{126 * FLT_MIN, -FLT_MIN}, Floats{1e-30f, 1e30f}, Floats{65504, -65504, 0.25f}, Floats{}}) {
    const std::string problem = problemOf(row);
    run.expect(problem.empty(), problem);
  }
  run.expect(scaleOf(0) == 1, "a row of zeros has the scale 1");
  run.expect(scaleOf(FLT_TRUE_MIN) == FLT_MIN && scaleOf(127 * FLT_MIN) == FLT_MIN, "the least scale is the least normal number");
  run.expect(std::nextafter(scaleOf(FLT_MAX), INFINITY) * 127 == INFINITY, "the largest scale is the last one whose 127 times is a number");
}

// Of two nearest whole numbers the even one; a float beside the tie goes to its own side.
static void ties(Run& run) {
  const float scale = scaleOf(127);
  run.expect(scale == 1, "127 has the scale 1");
  for (int i = -127; i < 127; i++) {
    const float tie = float(i) + 0.5f, even = float(i % 2 ? i + 1 : i);
    run.expect(quantisedOf(tie, scale) == even, "a tie goes to the even side: " + std::to_string(tie));
    run.expect(quantisedOf(std::nextafter(tie, -200.f), scale) == float(i), "just below a tie: " + std::to_string(tie));
    run.expect(quantisedOf(std::nextafter(tie, 200.f), scale) == float(i + 1), "just above a tie: " + std::to_string(tie));
  }
}

// Pieces of any length, at any address, in any order give the same bits.
static void pieces(Run& run) {
  Random random(2);
  Floats row(301);
  for (float& x : row) x = float(random.normal());
  const float largest = largestOf(row.data(), 301), scale = scaleOf(largest);
  Floats whole(301);
  quantise(row.data(), 301, scale, whole.data());
  for (int length : {1, 3, 16, 37, 300}) {
    float found = 0;
    Floats cut = row;
    for (int last = 301; last > 0; last -= length) {
      const int first = std::max(0, last - length);
      found = largestOf(&cut[size_t(first)], last - first, found);
      quantise(&cut[size_t(first)], last - first, scale, &cut[size_t(first)]);
    }
    run.same("largest of pieces of " + std::to_string(length), {found}, {largest});
    run.same("numbers of pieces of " + std::to_string(length), cut, whole);
  }
}

static void notFinite(Run& run) {
  Random random(3);
  for (int length : {1, 5, 64, 100}) {
    for (int at = 0; at < length; at++) {
      Floats row(static_cast<size_t>(length));
      for (float& x : row) x = float(random.normal() * 1e38);
      for (float bad : {INFINITY, -INFINITY}) {
        row[size_t(at)] = bad;
        run.expect(largestOf(row.data(), length) == INFINITY, "an infinity is the largest");
      }
      for (float bad : {float(NAN), -float(NAN)}) {
        row[size_t(at)] = bad;
        if (length > 1) row[size_t((at + 1) % length)] = INFINITY;
        run.expect(std::isnan(largestOf(row.data(), length)), "a NaN is beyond all others");
        run.expect(std::isnan(largestOf(row.data(), at, largestOf(&row[size_t(at)], length - at))), "from one piece to the next");
      }
    }
  }
}

static Suite suite([](Cases& cases) {
  cases.once("quantise/every row", everyRow);
  cases.once("quantise/extremes", extremes);
  cases.once("quantise/ties", ties);
  cases.once("quantise/pieces", pieces);
  cases.once("quantise/not finite", notFinite);
});

}  // namespace ewe::test

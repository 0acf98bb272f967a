// Conversions between fp32 and the 16-bit types, held against their definition in double precision, where every step is exact.
#include "ops/convert.h"
#include "cases.h"

#include <cstring>

namespace ewe::test {

namespace {

struct Format {
  DType type;
  int fraction, smallest, largest;  // stored bits of the significand; exponents of the smallest and the largest normal number
};

}  // namespace

static constexpr Format kFormats[] = {{DType::float16, 10, -14, 15}, {DType::bfloat16, 7, -126, 127}};

static float floatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// NaN for all of them.
static double valueOf(uint16_t bits, const Format& f) {
  const int exponentBits = 15 - f.fraction, field = (bits >> f.fraction) & ((1 << exponentBits) - 1), fraction = bits & ((1 << f.fraction) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (field == (1 << exponentBits) - 1) return fraction ? NAN : sign * INFINITY;
  const double significand = field ? 1 + std::ldexp(fraction, -f.fraction) : std::ldexp(fraction, -f.fraction);
  return sign * std::ldexp(significand, field ? field - 1 + f.smallest : f.smallest);
}

// The nearest number of the format, the even one of two.
static double nearest(double x, const Format& f) {
  if (std::isnan(x) || std::isinf(x) || x == 0) return x;
  int exponent;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1, std::max(exponent - 1, f.smallest) - f.fraction), value = std::nearbyint(x / unit) * unit;
  return std::fabs(value) >= std::ldexp(1, f.largest + 1) ? std::copysign(INFINITY, x) : std::copysign(value, x);
}

static bool same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

static void everyHalf(Run& run, const Format& f) {
  int wrong = 0;
  for (int bits = 0; bits < 0x10000; bits++) {
    const uint16_t half = uint16_t(bits);
    float wide;
    widen(&half, f.type, 1, &wide);
    uint16_t back;
    narrow(&wide, 1, f.type, &back);
    const double value = valueOf(half, f);
    if (!same(wide, value)) wrong++;
    if (std::isnan(value) ? !std::isnan(valueOf(back, f)) || (back ^ half) & 0x8000 : back != half) wrong++;
  }
  run.expect(wrong == 0, std::to_string(wrong) + " of 65536 numbers are widened wrongly, or not narrowed back to themselves");
}

// All upper halves of a float with the lower ones where rounding turns: at, below and above every tie of both formats, subnormal ones included.
static void rounding(Run& run, const Format& f) {
  Floats values;
  for (uint32_t high = 0; high < 0x10000; high++) {
    for (uint32_t low :
         {0x0000, 0x0001, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0xefff, 0xf000, 0xf001, 0xffff}) {
      values.push_back(floatOf(high << 16 | low));
    }
  }
  Random random(5);
  for (int i = 0; i < 200000; i++) values.push_back(floatOf(uint32_t(random.next())));
  // The ties of subnormal halves have their one anywhere.
  for (int exponent = -30; exponent < -12; exponent++)
    for (int i = 1; i < 64; i++) values.push_back(float(std::ldexp(i, exponent - 5)));
  std::vector<uint16_t> halves(values.size());
  narrow(values.data(), int64_t(values.size()), f.type, halves.data());
  long wrong = 0;
  size_t first = 0;
  for (size_t i = values.size(); i-- > 0;) {
    if (same(valueOf(halves[i], f), nearest(values[i], f))) continue;
    wrong++;
    first = i;
  }
  char text[160];
  std::snprintf(text, sizeof text, "%ld of %zu floats are rounded wrongly; the first: %.9g to %.9g instead of %.9g", wrong, values.size(),
                values[first], valueOf(halves[first], f), nearest(values[first], f));
  run.expect(wrong == 0, text);
}

// Elements of files may lie at any byte; counts may be anything.
static void anyAddress(Run& run) {
  unsigned char bytes[2 * 9 + 3];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 37 + 11);
  for (DType type : {DType::float32, DType::bfloat16, DType::float16}) {
    for (int offset = 0; offset < 3; offset++) {
      const int count = 18 / sizeOf(type);
      Floats got(size_t(count) + 1, -7), want(size_t(count) + 1, -7);
      std::vector<unsigned char> moved(bytes + offset, bytes + offset + 18);
      widen(bytes + offset, type, count, got.data());
      widen(moved.data(), type, count, want.data());
      run.same(std::string(nameOf(type)) + " at byte " + std::to_string(offset), got, want);
    }
  }
}

static Suite suite([](Cases& cases) {
  for (const Format& f : kFormats) {
    cases.once(std::string("convert/every ") + nameOf(f.type), [&f](Run& run) { everyHalf(run, f); });
    cases.once(std::string("convert/rounding to ") + nameOf(f.type), [&f](Run& run) { rounding(run, f); });
  }
  cases.once("convert/any address", anyAddress);
});

}  // namespace ewe::test

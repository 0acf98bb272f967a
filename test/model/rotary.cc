// The rotary tables, held against their definition: each frequency through one fp32 exponent, a power in double and one fp32 reciprocal; the angle is
// the fp32 product of position and frequency; cosine and sine of it in double, rounded once.
#include "model/forward.h"
#include "models.h"

namespace ewe::test {

static void recipe(Run& run, int size, double base) {
  constexpr int kPositions = 2100;
  Spec s{};
  s.rotarySize = size;
  s.rotaryBase = base;
  const size_t pairs = size_t(size / 2), count = kPositions * pairs;
  Floats cos(count + 1, -7), sin(count + 1, -7), wantCos(count + 1, -7), wantSin(count + 1, -7);
  rotaryTables(s, kPositions, cos.data(), sin.data());
  Doubles trueCos, trueSin, bound;
  for (int position = 0; position < kPositions; position++) {
    for (size_t j = 0; j < pairs; j++) {
      const volatile float exponent = float(2 * int(j)) / float(size);
      const volatile float power = float(std::pow(base, double(exponent)));
      const volatile float frequency = 1 / power;
      const volatile float angle = float(position) * frequency;
      wantCos[size_t(position) * pairs + j] = float(std::cos(double(angle)));
      wantSin[size_t(position) * pairs + j] = float(std::sin(double(angle)));
      // Without any rounding on the way: the frequency is off by 2 roundings and that of the exponent (which the logarithm of the base enlarges), the
      // angle by one more, the result by its own.
      const double exact = position * std::pow(base, -2.0 * double(j) / size);
      trueCos.push_back(std::cos(exact));
      trueSin.push_back(std::sin(exact));
      bound.push_back(kUnit * (1 + exact * (3 + std::log(base))));
    }
  }
  run.same("cos", cos, wantCos);
  run.same("sin", sin, wantSin);
  run.near("cos without rounding", Floats(cos.begin(), cos.end() - 1), trueCos, bound);
  run.near("sin without rounding", Floats(sin.begin(), sin.end() - 1), trueSin, bound);
}

static Suite suite([](Cases& cases) {
  for (int size : {2, 4, 8, 16, 20, 24, 32, 64, 128}) {
    for (double base : {10000.0, 500000.0}) {
      cases.test("rotary/size " + std::to_string(size) + " base " + std::to_string(int(base)), [=](Run& run) { recipe(run, size, base); });
    }
  }
  cases.test("rotary/none", [](Run& run) {
    float untouched = 3;
    rotaryTables(Spec{}, 100, &untouched, &untouched);
    run.expect(untouched == 3, "a model that rotates nothing has empty tables");
  });
});

}  // namespace ewe::test

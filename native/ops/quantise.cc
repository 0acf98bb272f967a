#include "ops/quantise.h"

#include <cstring>
#include <limits>

namespace ewe {

// Magnitudes compare as the whole numbers that their bits are, NaN above infinity above all others; and of whole numbers compilers make vectors.
float largestOf(const float* numbers, int64_t count, float before) {
  int32_t largest;
  std::memcpy(&largest, &before, sizeof largest);
  for (int64_t i = 0; i < count; i++) {
    int32_t bits;
    std::memcpy(&bits, &numbers[i], sizeof bits);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  std::memcpy(&before, &largest, sizeof before);
  return before;
}

float scaleOf(float largest) {
  constexpr float kLeast = std::numeric_limits<float>::min();
  constexpr float kMost = 0x1.020406p+121f;  // 127 times the next number above overflows
  if (largest == 0) return 1;
  const float scale = largest / 127;
  return scale < kLeast ? kLeast : scale > kMost ? kMost : scale;
}

// Nothing is beyond 127: the scale is within a unit in the last place of the largest magnitude / 127, or above that.
void quantise(const float* numbers, int64_t count, float scale, float* whole) {
  constexpr float kShift = 12582912;  // 1.5 * 2^23: added, it leaves no room behind the point, so that the sum is rounded to a whole number
  for (int64_t i = 0; i < count; i++) whole[i] = (numbers[i] / scale + kShift) - kShift;
}

}  // namespace ewe

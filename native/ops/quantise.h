// The int8 quantiser of all devices: symmetric, one scale for each row of a matrix, the same numbers on every machine.
//
//   scale = largest magnitude of the row / 127        q = x / scale, rounded to the nearest whole number (of two the even one), from -127 to 127
//
// A row is read twice, in pieces of any size: largestOf over all of them, then quantise with the scale of what was largest.
#pragma once
#include <cstdint>

namespace ewe {

// Of numbers and `before`, the largest magnitude so far. Infinite or NaN once a number is: such a row has no scale.
float largestOf(const float* numbers, int64_t count, float before = 0);

// Of a row whose largest magnitude is finite. Always a normal number, and 127 times it is finite: 1 for a row of zeros; for a row of nothing but tiny
// numbers the least normal one.
float scaleOf(float largest);

// Whole numbers, as floats; scale is scaleOf the largest magnitude of their row. |x - scale q| is at most scale (1/2 + 2^-17).
void quantise(const float* numbers, int64_t count, float scale, float* whole);

}  // namespace ewe

// The op that cases of a device launch where it does not matter which.
#pragma once
#include "cases.h"

namespace ewe::test {

constexpr int kWidth = 64;

// One row of kWidth numbers in float32.
inline Norm normOf(const void* x, const Array& weight, const Array& y) {
  Norm n = {};
  n.x = x;
  n.weight = weight.floats();
  n.y = y.data();
  n.rows = 1;
  n.width = kWidth;
  n.eps = 1e-5f;
  n.residualType = n.type = DType::float32;
  return n;
}

}  // namespace ewe::test

// The kernels of twins.cu: each does what one group of the seam's functions does, to numbers that the host can foresee.
#pragma once

namespace ewe::kernels {

struct Twins {
  const void *a, *b, *c;
  void* out;
  int n;
};

constexpr int kLaneResults = 12, kNumberResults = 16, kPairResults = 6;

}  // namespace ewe::kernels

// What the cases of products share.
#pragma once
#include "cases.h"

namespace ewe::test {

inline DType inputOf(const Run& run, DType weights) { return run.ops.activationType(weights); }
// The 16-bit type of outputs beside inputs of `type`.
inline DType narrowOf(DType type) { return type == DType::float32 ? DType::bfloat16 : type; }

inline Limits limitsOf(int rows, int k, DType type) {
  Limits l = {};
  l.rows = rows;
  l.width = k;
  l.heads = l.headSize = 1;
  l.type = type;
  return l;
}

}  // namespace ewe::test

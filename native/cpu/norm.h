// LayerNorm of one row, for norm.cc and for the input of block.cc.
#pragma once
#include "cpu/panels.h"

namespace ewe::EWE_CPU {

struct Statistics {
  float mean, rest;  // the mean is their sum: rest is what rounding left over in the first
  float scale;       // 1 / sqrt(variance + eps)
};

// Two passes. Keeping the rest of the mean apart keeps the digits of rows with a large common offset.
inline Statistics statistics(const float* x, int width, float eps) {
  const int whole = width / 64 * 64;
  Vector s[4] = {};
  for (int i = 0; i < whole; i += 64)
    for (int j = 0; j < 4; j++) s[j] = s[j] + load(x + i + j * 16);
  for (int i = whole; i < width; i += 16) s[0] = s[0] + (width - i >= 16 ? load(x + i) : loadFirst(x + i, width - i));
  const float mean = sum((s[0] + s[1]) + (s[2] + s[3])) / float(width);

  const Vector middle = set(mean);
  Vector rest[2] = {}, squares[2] = {};
  for (int i = 0; i < width; i += 16) {
    const int left = width - i, j = i / 16 % 2;
    const Vector d = left >= 16 ? load(x + i) - middle : select(firstLanes(left), loadFirst(x + i, left) - middle, zero());
    rest[j] = rest[j] + d;
    squares[j] = fma(d, d, squares[j]);
  }
  const float correction = sum(rest[0] + rest[1]) / float(width);
  float variance = sum(squares[0] + squares[1]) / float(width) - correction * correction;
  if (variance < 0) variance = 0;
  return {mean, correction, 1.f / __builtin_sqrtf(variance + eps)};
}

// out = (x - mean) * scale * weight + bias, in a product's format with its zero padding up to `padded` numbers.
inline void normalise(const float* x, Statistics s, const float* weight, const float* bias, int width, int padded, void* out, Format format) {
  const Vector mean = set(s.mean), rest = set(s.rest), scale = set(s.scale);
  for (int i = 0; i < width; i += 16) {
    const int left = width - i < 16 ? width - i : 16;
    const bool full = left == 16;
    const Vector d = ((full ? load(x + i) : loadFirst(x + i, left)) - mean - rest) * scale;
    const Vector y =
        fma(d, full ? load(weight + i) : loadFirst(weight + i, left), bias ? (full ? load(bias + i) : loadFirst(bias + i, left)) : zero());
    if (format == Format::bfloat16) {
      const Words h = roundBfloat16(y);
      uint16_t* p = static_cast<uint16_t*>(out) + i;
      if (full) {
        storeHalves(p, h);
      } else {
        uint16_t last[16];
        storeHalves(last, h);
        memcpy(p, last, size_t(left) * 2);
      }
    } else {
      const Vector v = format == Format::float32 ? y : floats(roundBfloat16(y) << 16);
      float* p = static_cast<float*>(out) + i;
      full ? store(p, v) : storeFirst(p, v, left);
    }
  }
  for (int i = width; i < padded; i++) format == Format::bfloat16 ? void(static_cast<uint16_t*>(out)[i] = 0) : void(static_cast<float*>(out)[i] = 0);
}

}  // namespace ewe::EWE_CPU

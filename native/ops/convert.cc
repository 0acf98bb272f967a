#include "ops/convert.h"

#include <cstring>

namespace ewe {

static float fromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static uint32_t toBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float fromHalf(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return fromBits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // Shifted into place, the exponent is 112 too small; the product repairs it exactly, for subnormal halves too.
  return fromBits(sign | toBits(fromBits(magnitude << 13) * fromBits(0x77800000)));
}

static uint16_t toHalf(float value) {
  const uint32_t bits = toBits(value), magnitude = bits & 0x7fffffff;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // 65520 and more round to infinity
  if (magnitude < 0x38800000) {                                 // below 2^-14: the adder rounds at the subnormal's last bit, 2^-24
    return uint16_t(sign | (toBits(fromBits(magnitude) + 0.5f) - toBits(0.5f)));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return uint16_t(sign | (magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

static uint16_t toBfloat(float value) {
  const uint32_t bits = toBits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void widen(const void* source, DType type, int64_t count, float* target) {
  if (count <= 0) return;  // memcpy takes no null pointers, even for nothing
  if (type == DType::float32) {
    std::memcpy(target, source, size_t(count) * sizeof(float));
    return;
  }
  // Files do not promise alignment: 16-bit elements are copied out one by one.
  const auto* bytes = static_cast<const unsigned char*>(source);
  for (int64_t i = 0; i < count; i++) {
    uint16_t half;
    std::memcpy(&half, bytes + 2 * i, sizeof half);
    target[i] = type == DType::bfloat16 ? fromBits(uint32_t(half) << 16) : fromHalf(half);
  }
}

void narrow(const float* source, int64_t count, DType type, void* target) {
  if (count <= 0) return;
  if (type == DType::float32) {
    std::memcpy(target, source, size_t(count) * sizeof(float));
    return;
  }
  auto* out = static_cast<uint16_t*>(target);
  for (int64_t i = 0; i < count; i++) out[i] = type == DType::bfloat16 ? toBfloat(source[i]) : toHalf(source[i]);
}

}  // namespace ewe

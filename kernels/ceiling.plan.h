// Plans of the kernels that measure what a card can do at best; benches hold every other kernel against them.
#pragma once
#include "plan.h"

namespace ewe::kernels {

// copy: to[i] = from[i]. read: all of from, once. multiply: `rounds` products of a warp's registers, no memory.
struct Ceiling {
  const void* from;
  void* to;
  long long count;  // pieces of 16 bytes; multiply: 0
  int rounds;
  unsigned never;  // a result that does not come, but keeps the compiler from leaving the work out
};

constexpr int kCeilingThreads = 256;
constexpr int kCeilingAccumulators = 8;  // independent chains of a warp, more than an instruction's latency needs

// What a warp multiplies in `rounds` rounds, in FLOPs: 16 x 16 x 16 a unit.
constexpr double flopsOfWarp(int rounds) { return 2.0 * 16 * 16 * 16 * kCeilingAccumulators * rounds; }

constexpr Launch planCeiling(const char* name, const CardLimits& limits) {
  Launch l{};
  append(l, name);
  l.gridX = unsigned(limits.sms * 8);
  l.gridY = l.gridZ = 1;
  l.threads = kCeilingThreads;
  return l;
}
constexpr Launch planCopy(const CardLimits& limits) { return planCeiling("ceiling_copy", limits); }
constexpr Launch planRead(const CardLimits& limits) { return planCeiling("ceiling_read", limits); }
constexpr Launch planMultiply(DType type, const CardLimits& limits) {
  if (!multiplies(limits.path, type)) return refuse("this card's tensor cores do not multiply this type");
  Launch l = planCeiling("ceiling_multiply_", limits);
  append(l, suffix(type));
  l.gridX = unsigned(limits.sms * 2);
  return l;
}
}  // namespace ewe::kernels

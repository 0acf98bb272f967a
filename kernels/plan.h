// What the plans of all kernels share: a card's limits, the launch that a plan comes to, and the names of kernels. Plain constexpr C++ without a
// standard header: read by the host, by tests for cards that are not there, and by device compilers.
//
// NAME.plan.h holds the tile constants of NAME.cu and its plan(): a pure function from an op and a card's limits to a Launch. It refuses what the
// kernel cannot do; there is no other way to choose a kernel than by the name it gives.
#pragma once
#include "ops/args.h"

namespace ewe::kernels {

// The instructions a kernel is made of. A card uses the highest path that its compute capability reaches.
//   700  mma.m8n8k4 (fp16), plain loads            V100
//   750  mma.m16n8k8 (fp16), ldmatrix              T4
//   800  mma.m16n8k16 (bf16, fp16), cp.async       A100, A10, L4
//   900  as 800 so far                             H100, H200 and newer
constexpr int pathOf(int computeCapability) {
  return computeCapability >= 90 ? 900 : computeCapability >= 80 ? 800 : computeCapability >= 75 ? 750 : 700;
}

struct CardLimits {
  int path;
  int sms;
  int sharedPerBlock, sharedPerSm;  // bytes
  int registersPerSm, threadsPerSm, blocksPerSm;
};

struct Launch {
  char name[48];  // empty: refused
  unsigned gridX, gridY, gridZ, threads;
  int sharedBytes;
  const char* refusal;  // why, and what to do
};

constexpr Launch refuse(const char* why) {
  Launch l{};
  l.refusal = why;
  return l;
}

constexpr void append(Launch& l, const char* text) {
  int at = 0;
  while (l.name[at]) at++;
  for (; *text && at < int(sizeof l.name) - 1; text++) l.name[at++] = *text;
}
constexpr void append(Launch& l, int number) {
  if (number >= 10) append(l, number / 10);
  const char digit[2] = {char('0' + number % 10), 0};
  append(l, digit);
}
constexpr const char* suffix(DType type) {
  return type == DType::float32 ? "f32" : type == DType::bfloat16 ? "bf16" : type == DType::float16 ? "f16" : "i8";
}

constexpr int divideUp(int n, int by) { return (n + by - 1) / by; }

// What 16-bit type a path multiplies.
constexpr bool multiplies(int path, DType type) { return type == DType::float16 || (type == DType::bfloat16 && path >= 800); }

}  // namespace ewe::kernels

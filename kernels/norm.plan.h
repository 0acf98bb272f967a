// Plan of norm.cu.
#pragma once
#include "plan.h"

namespace ewe::kernels {

// rownorm.cuh: 8 parts of a warp each, up to 32 columns a lane.
constexpr int kNormThreads = 256;
constexpr int kNormWidth = 8192;
constexpr int kNormShared = 3 * 4 * kNormThreads / 32;

constexpr Launch planNorm(const Norm& n, const CardLimits& limits) {
  if (n.residualType != DType::float32) return refuse("a card keeps the residual stream in float32: norm that");
  if (n.type == DType::int8) return refuse("a norm gives float32, bfloat16 or float16");
  if (n.type == DType::bfloat16 && !multiplies(limits.path, n.type))
    return refuse("this card has no bfloat16 arithmetic: give float16, its activations' type");
  if (n.width < 1 || n.width > kNormWidth)
    return refuse("rows of a norm have 1 to 8,192 columns, which its registers hold: wider ones need another kernel");
  if (!n.weight2 != !n.y2) return refuse("a second norm needs both its weight and its output");
  Launch l{};
  append(l, "norm_");
  append(l, suffix(n.type));
  l.gridX = unsigned(n.rows);
  l.gridY = l.gridZ = 1;
  l.threads = kNormThreads;
  l.sharedBytes = kNormShared;
  return l;
}

}  // namespace ewe::kernels

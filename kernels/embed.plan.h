// Plan of embed.cu.
#pragma once
#include "plan.h"

namespace ewe::kernels {

// Wide rows go to several blocks: 5,120 columns of 16 bits are 640 pieces of 16 bytes.
constexpr int kEmbedThreads = 128;

constexpr int embedBlocks(int width, DType type) { return divideUp(divideUp(width, 16 / sizeOf(type)), kEmbedThreads); }

constexpr Launch planEmbed(const Embed& e, const CardLimits&) {
  if (e.residualType != DType::float32) return refuse("a card keeps the residual stream in float32: embed into that");
  if (e.tableType == DType::int8) return refuse("an embedding table is float32, bfloat16 or float16: int8 weights keep theirs in 16 bits");
  Launch l{};
  append(l, "embed_");
  append(l, suffix(e.tableType));
  l.gridX = unsigned(e.rows.rows);
  l.gridY = unsigned(embedBlocks(e.width, e.tableType));
  l.gridZ = 1;
  l.threads = kEmbedThreads;
  return l;
}

}  // namespace ewe::kernels

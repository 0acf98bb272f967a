// Plan of block.cu: the two products of a layer's first third for prompt rows, as one launch.
#pragma once
#include "linear.plan.h"

namespace ewe::kernels {

constexpr const char* blockInRefusal(const BlockIn& b, const CardLimits& limits) {
  if (const char* why = matrixRefusal(b.qkvMatrix, b.type, limits)) return why;
  if (const char* why = matrixRefusal(b.up, b.type, limits)) return why;
  if (b.qkvMatrix.type != b.up.type || b.qkvMatrix.k != b.width || b.up.k != b.width)
    return "both matrices of a layer's first third must have the type and the inputs of each other";
  if (b.residualType != DType::float32) return "a card keeps the residual stream in float32";
  if (b.step.rows < 1) return "a product needs at least one row";
  return qkvRefusal(b.qkv, b.qkvMatrix, b.type);
}

// The norms lie in b.scratch: [rows, width], and behind that those of the second norm, where there is one. All rows are of the prompt class.
constexpr Launch planBlockIn(const BlockIn& b, const CardLimits& limits) {
  if (const char* why = blockInRefusal(b, limits)) return refuse(why);
  const ProductTile t = chooseProductTile(limits, b.step.rows, b.qkvMatrix.n + b.up.n, b.up.type, false);
  const int columnTiles = divideUp(b.qkvMatrix.n, t.columns) + divideUp(b.up.n, t.columns);
  return planProduct("block_in_", t, b.up.type, b.type, unsigned(divideUp(b.step.rows, t.rows) * columnTiles));
}

}  // namespace ewe::kernels

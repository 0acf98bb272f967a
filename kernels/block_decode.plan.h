// Plan of block_decode.cu: the two products of a layer's first third for generated rows, as one launch, which for few rows takes the norms as well.
#pragma once
#include "block.plan.h"
#include "linear_decode.plan.h"

namespace ewe::kernels {

// Up to this many rows every block of the products normalises them for itself, while its first weights are on their way: 4 rows of 2,560 numbers are
// 40 KB more from the second-level cache for a block that reads some 250 KB of weights, and save a launch. A block of more rows would wait for
// itself.
constexpr int kNormRows = 4;
constexpr int kWidestRow = 8192;               // that rownorm.cuh can take
constexpr int kNormSumBytes = 96 * kNormRows;  // its sums of a row's eight parts

// A normalised row in shared memory, in pieces of 16 bytes, padded so that rows begin in different banks.
constexpr int normRowPieces(int path, int width) {
  const int pieces = inputTiles(width) * 4;
  return path >= 750 ? pieces + (pieces % 8 == 0 ? 4 : 0) : pieces + 1;
}
// The sums of the product, those of the norms, and the rows.
constexpr int streamNormBytes(int path, const StreamTile& t, int rows, int width) {
  return streamSharedBytes(t) + kNormSumBytes + rows * normRowPieces(path, width) * 16;
}

// Whether the launch of planBlockInDecode takes x itself, not its norms in b.scratch: a choice that changes no bit. Two blocks should fit.
constexpr bool normalisesItself(const BlockIn& b, const CardLimits& limits) {
  if (b.step.rows > kNormRows || b.width > kWidestRow) return false;
  const StreamTile t = streamTile(limits.path, streamRows(limits.path, b.step.rows), sizeOf(b.up.type));
  const int bytes = streamNormBytes(limits.path, t, b.step.rows, b.width);
  return bytes <= limits.sharedPerBlock && 2 * (bytes + 1024) <= limits.sharedPerSm;
}

// A block goes through tiles of one matrix: of the projection, or of the MLP. How many tiles the most loaded has, when they are shared out among so
// many blocks (two at least).
constexpr int blockInTurns(int projectionTiles, int upTiles, int blocks) {
  int turns = divideUp(projectionTiles + upTiles, blocks);
  while (divideUp(projectionTiles, turns) + divideUp(upTiles, turns) > blocks) turns++;
  return turns;
}
// No more blocks than that takes; the kernel finds the same turns from their number.
constexpr int blockInBlocks(const StreamTile& t, int projectionTiles, int upTiles, const CardLimits& limits) {
  const int turns = blockInTurns(projectionTiles, upTiles, limits.sms * t.blocks);
  return divideUp(projectionTiles, turns) + divideUp(upTiles, turns);
}
constexpr int blocksOfProjection(int projectionTiles, int upTiles, int blocks) {
  return divideUp(projectionTiles, blockInTurns(projectionTiles, upTiles, blocks));
}

// All rows are of the generated class.
constexpr Launch planBlockInDecode(const BlockIn& b, const CardLimits& limits) {
  if (const char* why = blockInRefusal(b, limits)) return refuse(why);
  const bool norms = normalisesItself(b, limits);
  if (norms || (b.step.rows <= kStreamRows && streamsRows(b.width, b.width))) {
    const StreamTile t = streamTile(limits.path, streamRows(limits.path, b.step.rows), sizeOf(b.up.type));
    const int projection = divideUp(b.qkvMatrix.n, t.outputs), up = divideUp(b.up.n, t.outputs);
    Launch l = planStream(norms ? "block_in_norm_" : "block_in_decode_", t, b.up.type, b.type, projection + up, limits);
    l.gridX = unsigned(blockInBlocks(t, projection, up, limits));
    if (norms) l.sharedBytes = streamNormBytes(limits.path, t, b.step.rows, b.width);
    return l;
  }
  const ProductTile t = chooseProductTile(limits, b.step.rows, b.qkvMatrix.n + b.up.n, b.up.type, true);
  const int columnTiles = divideUp(b.qkvMatrix.n, t.columns) + divideUp(b.up.n, t.columns);
  return planProduct("block_in_decode_", t, b.up.type, b.type, unsigned(divideUp(b.step.rows, t.rows) * columnTiles));
}

}  // namespace ewe::kernels

// Plan of linear_decode.cu: tiles of the kernels that stream the weights past a few rows (stream.cuh), and the choice between them and those of
// product.cuh.
#pragma once
#include "linear.plan.h"

namespace ewe::kernels {

// A block makes `outputs` outputs of `rows` rows at a time, a warp for each slice of k. `ahead` tiles of 32 inputs are on their way to each warp's
// registers.
struct StreamTile {
  int outputs, rows, ahead, blocks;  // blocks that should fit on a multiprocessor
};
constexpr int kStreamThreads = 32 * kSlices;

// Rows are read from the second-level cache once for every 16 or 32 outputs; weights, once. With 32 rows a tile of 16 outputs would read twice as
// many bytes of rows as of weights. What is on its way: 16 outputs x 32 inputs are 1 KB in 16 bits and half of that in int8; a card wants 4 KB (T4)
// to 27 KB (H200) a multiprocessor, and a block of eight warps may be alone on it. Registers are the limit: on path 700 lanes need all 32 inputs of
// their row, so columns come in 16 rows and a tile takes twice as many.
constexpr StreamTile streamTile(int path, int rows, int weightBytes) {
  const bool quads = path < 750, whole = weightBytes == 1;
  if (rows == 8) return {16, 8, whole ? 8 : 5, 2};
  if (rows == 16) return {16, 16, quads ? (whole ? 3 : 2) : (whole ? 6 : 4), 2};
  return {32, 32, quads ? 2 : (whole ? 4 : 3), 1};
}
constexpr int kStreamRows = 32;  // the most
constexpr int streamRows(int path, int rows) { return rows <= 8 && path >= 750 ? 8 : rows <= 16 ? 16 : kStreamRows; }
constexpr int streamSharedBytes(const StreamTile& t) { return kSlices * t.rows * (t.outputs + 4) * 4; }

// Rows that begin on 16 bytes and are whole tiles of inputs: as those of every known model.
constexpr bool streamsRows(int inputs, long long stride) { return inputs % kTileInputs == 0 && stride % 8 == 0; }

// Blocks go through several tiles, as evenly as they can: only the first one's loads are waited for with nothing else to do.
constexpr int streamBlocks(const StreamTile& t, int tiles, const CardLimits& limits) {
  const int turns = divideUp(tiles, limits.sms * t.blocks);
  return divideUp(tiles, turns);
}

constexpr Launch planStream(const char* stem, const StreamTile& t, DType weights, DType type, int tiles, const CardLimits& limits) {
  Launch l{};
  append(l, stem);
  appendTypes(l, weights, type);
  append(l, "_");
  append(l, t.rows);
  l.gridX = unsigned(streamBlocks(t, tiles, limits));
  l.gridY = l.gridZ = 1;
  l.threads = kStreamThreads;
  l.sharedBytes = streamSharedBytes(t);
  return l;
}

// All rows are of the generated class.
constexpr Launch planLinearDecode(const Linear& l, const CardLimits& limits) {
  if (const char* why = linearRefusal(l, limits)) return refuse(why);
  const Matrix& m = l.matrix;
  if (l.rows <= kStreamRows && streamsRows(m.k, l.xStride)) {
    const StreamTile t = streamTile(limits.path, streamRows(limits.path, l.rows), sizeOf(m.type));
    return planStream("linear_decode_", t, m.type, l.type, divideUp(m.n, t.outputs), limits);
  }
  const ProductTile t = chooseProductTile(limits, l.rows, m.n, m.type, true);
  return planProduct("linear_decode_", t, m.type, l.type, unsigned(divideUp(l.rows, t.rows) * divideUp(m.n, t.columns)));
}

}  // namespace ewe::kernels

// The order of matrices on a card, the tiles of the matrix kernels, and the plan of linear.cu.
#pragma once
#include "plan.h"

namespace ewe::kernels {

// ---- The order of a matrix
//
// Tiles of 16 outputs x 32 inputs, [n / 16][k / 32], both padded; what pads must be finite, and memory begins as zeros. Weights are always the left
// operand of the matrix units, a tile two products of depth 16. Its order is such that the 16 bytes that a lane loads are the registers it needs, and
// lie beside those of the other lanes:
//
//   750 and up  lane l has the outputs g = l / 4 and g + 8, and the inputs 8 (l % 4) .. + 7. The first product takes four of them, the second the
//               others: which inputs a product pairs up is ours to choose, and so a lane reads its rows of activations 16 bytes at a time too.
//               16 bits: [product][lane][two pairs of inputs][output g, then g + 8][pair]; int8: [lane][output g, then g + 8][8 inputs].
//   700         lanes have whole rows: [inputs in pieces of 16 bytes][16 outputs][piece], where the outputs lie as the lanes read them.
//
// int8 is stored as unsigned bytes with 128 added: the units want 16 bits, and without a sign a byte becomes the low bits of one.
constexpr int kTileOutputs = 16, kTileInputs = 32;
constexpr int kInt8Bias = 128;

constexpr int outputTiles(int n) { return divideUp(n, kTileOutputs); }
constexpr int inputTiles(int k) { return divideUp(k, kTileInputs); }
constexpr int tileBytes(DType type) { return kTileOutputs * kTileInputs * sizeOf(type); }
constexpr unsigned long long matrixBytes(int, int n, int k, DType type) {
  return (unsigned long long)outputTiles(n) * inputTiles(k) * tileBytes(type);
}

// On path 700 eight neighbouring lanes have outputs 0-3 and 8-11: those lie together, so that no two are in the same bank.
constexpr int outputPlace700(int output) { return (output & 3) | (output & 8) >> 1 | (output & 4) << 1; }

// Where element (output, input) of a tile lies in it, in elements.
constexpr int placeInTile(int path, DType type, int output, int input) {
  const int piece = 16 / sizeOf(type);  // elements of 16 bytes
  if (path < 750) return input / piece * (kTileOutputs * piece) + outputPlace700(output) * piece + input % piece;
  const int lane = output % 8 * 4 + input / 8, upper = output / 8;
  if (type == DType::int8) return lane * 16 + upper * 8 + input % 8;
  return input / 4 % 2 * 256 + lane * 8 + input / 2 % 2 * 4 + upper * 2 + input % 2;
}

// Where W[row, column] of a matrix lies, in elements.
constexpr long long elementAt(int path, int, int k, DType type, int row, int column) {
  const long long tile = (long long)(row / kTileOutputs) * inputTiles(k) + column / kTileInputs;
  return tile * (kTileOutputs * kTileInputs) + placeInTile(path, type, row % kTileOutputs, column % kTileInputs);
}

// ---- Slices of k. A generated row's sums are those of kSlices ranges of k, added in their order; each range is some tiles of inputs one after
// another.

constexpr int kSlices = 8;
constexpr int sliceBegin(int slice, int tiles) { return tiles * slice / kSlices; }

// ---- Tiles of the kernels that take both operands from shared memory (product.cuh)
//
// A block makes `rows` rows of `columns` outputs, its warps in rowWarps x columnWarps; `stages` tiles of 32 inputs are there or on their way.
struct ProductTile {
  int rows, columns, rowWarps, columnWarps, stages, blocks;  // blocks that should fit on a multiprocessor
  constexpr int threads() const { return 32 * rowWarps * columnWarps; }
};

// From path 800 on a warp of the large tiles has 64 x 64 outputs, 128 registers of sums: what it reads from shared memory is then less than what the
// matrix units take in the time. Below, the next tile comes through registers too: more warps with fewer outputs.
//
// Products of few tiles wait for memory, often with one block on a multiprocessor or none: the ring of the small tiles is as long as 48 KB allow, so
// that a block alone has 14 KB (64 x 32) or 20 KB (64 x 64) of weights on their way, where an H200 wants some 27 KB a multiprocessor and an A10 5.
// Shorter rings and more blocks have no more bytes on their way where there are blocks enough, and half of them where there are not. So two blocks
// are what all cards hold (A10 and L4 have 100 KB), three an A100 and four an H100: the registers leave room for them.
constexpr ProductTile productTile(int path, int rows, int columns) {
  const bool copies = path >= 800;
  if (columns == 256) return {128, 256, 2, 4, 4, 1};
  if (rows == 128) return copies ? ProductTile{128, 128, 2, 2, 3, 2} : ProductTile{128, 128, 2, 4, 2, 1};
  if (columns == 128) return {64, 128, 2, 2, copies ? 4 : 2, 2};
  if (columns == 64) return copies ? ProductTile{64, 64, 2, 2, 6, 2} : ProductTile{64, 64, 2, 2, 2, 3};
  return copies ? ProductTile{64, 32, 2, 2, 8, 2} : ProductTile{64, 32, 2, 2, 2, 4};
}
// The stages, or at the end the sums of 16 rows of each warp.
constexpr int productSharedBytes(const ProductTile& t, int weightBytes) {
  const int stages = t.stages * kTileInputs * (t.rows * 2 + t.columns * weightBytes);
  const int sums = t.rowWarps * 16 * (t.columns + 4 * t.columnWarps) * 4;
  return stages > sums ? stages : sums;
}

// Multiply-adds of 16-bit numbers that a multiprocessor does in a clock. Those of A10 and L4, told by their 1,536 threads, do what older ones did; of
// the 2048 of 9.0 these instructions reach some 60%.
constexpr int multipliesPerClock(const CardLimits& limits) {
  if (limits.path < 800 || limits.threadsPerSm < 2048) return 512;
  return limits.path >= 900 ? 1280 : 1024;
}

// Time of a product on a card, in clocks for one input of k: whatever takes longest of
//   the multiprocessors with the most tiles: the matrix units, or shared memory where tiles of warps are small (128 bytes a clock), or their way to
//   the second-level cache (64 bytes a clock); the second-level cache, 32 bytes a clock and multiprocessor.
// Only the order of these numbers matters. Every tile gives the same bits.
constexpr double productClocks(const ProductTile& t, long long rows, long long columns, const CardLimits& limits) {
  const long long rowTiles = (rows + t.rows - 1) / t.rows, columnTiles = (columns + t.columns - 1) / t.columns, tiles = rowTiles * columnTiles;
  const double turns = double((tiles + limits.sms - 1) / limits.sms);
  const double warpRows = double(t.rows) / t.rowWarps, warpColumns = double(t.columns) / t.columnWarps;
  const double shared = 32 * (1 / warpRows + 1 / warpColumns + 1.0 / t.rows + 1.0 / t.columns) / 2048, unit = 1.0 / multipliesPerClock(limits);
  const double units = turns * t.rows * t.columns * (shared > unit ? shared : unit);
  const double read = 2.0 * double((rows < t.rows ? rows : t.rows) + (columns < t.columns ? columns : t.columns));
  const double way = turns * read / 64, cache = double(tiles) * read / (32.0 * limits.sms);
  return units > way ? (units > cache ? units : cache) : (way > cache ? way : cache);
}

// The fastest of the tiles, from the largest on; a smaller one must be faster by a twentieth, for what each tile costs beside this.
constexpr ProductTile chooseProductTile(const CardLimits& limits, int rows, int columns, DType weights, bool generated) {
  constexpr int kShapes[][2] = {{128, 256}, {128, 128}, {64, 128}, {64, 64}, {64, 32}};
  ProductTile best{};
  double least = 0;
  for (const auto& shape : kShapes) {
    if (generated && shape[0] == 128) continue;  // their sums take twice the registers
    if (shape[1] == 256 && limits.path < 800) continue;
    const ProductTile t = productTile(limits.path, shape[0], shape[1]);
    if (productSharedBytes(t, sizeOf(weights)) > limits.sharedPerBlock) continue;
    const double clocks = productClocks(t, rows, columns, limits);
    if (best.rows && clocks > least * 0.95) continue;
    best = t;
    least = clocks;
  }
  return best;
}

// ---- Plan of linear.cu, and what both kinds of linear kernels refuse

// The suffix of a kernel: the type of the weights, and of the activations where they differ.
constexpr void appendTypes(Launch& l, DType weights, DType type) {
  append(l, suffix(weights));
  if (weights == type) return;
  append(l, "_");
  append(l, suffix(type));
}

constexpr const char* matrixRefusal(const Matrix& m, DType type, const CardLimits& limits) {
  if (type != DType::float16 && type != DType::bfloat16) return "a card multiplies bfloat16 or float16 activations: load the weights so, or as int8";
  if (!multiplies(limits.path, type)) return "this card has no bfloat16 arithmetic: load the weights as float16 or int8";
  if (m.type != type && m.type != DType::int8) return "the weights must be int8 or have the type of the activations";
  if (m.type == DType::int8 && type != (limits.path >= 800 ? DType::bfloat16 : DType::float16))
    return "int8 weights meet bfloat16 activations from compute capability 8.0 on and float16 ones below";
  if ((m.type == DType::int8) != (m.scale != nullptr)) return "int8 weights, and only they, need a scale for each output";
  if (m.n < 1 || m.k < 1) return "a matrix needs at least one output and one input";
  return nullptr;
}
constexpr const char* qkvRefusal(const Qkv& q, const Matrix& m, DType type) {
  if (q.cache.type != type) return "the cache must have the type of the activations";
  if (q.cache.headSize % 4 != 0 || q.rotary.size % 2 != 0)
    return "a card writes heads of a multiple of 4 components with an even number of rotated ones";
  if (m.n != (q.heads + 2 * q.cache.kvHeads) * q.cache.headSize) return "the fused projection must have queries, keys and values of its heads";
  return nullptr;
}
constexpr const char* linearRefusal(const Linear& l, const CardLimits& limits) {
  if (const char* why = matrixRefusal(l.matrix, l.type, limits)) return why;
  if (l.rows < 1) return "a product needs at least one row";
  if (l.qkv.q) return qkvRefusal(l.qkv, l.matrix, l.type);
  if (l.outputType != DType::float32 && l.outputType != l.type) return "a product gives float32 or the type of its activations";
  if (l.residual && l.residualType != DType::float32) return "a card keeps the residual stream in float32";
  return nullptr;
}

constexpr Launch planProduct(const char* stem, const ProductTile& t, DType weights, DType type, unsigned blocks) {
  Launch l{};
  append(l, stem);
  appendTypes(l, weights, type);
  append(l, "_");
  append(l, t.rows);
  append(l, "x");
  append(l, t.columns);
  l.gridX = blocks;
  l.gridY = l.gridZ = 1;
  l.threads = unsigned(t.threads());
  l.sharedBytes = productSharedBytes(t, sizeOf(weights));
  return l;
}

// All rows are of the prompt class.
constexpr Launch planLinear(const Linear& l, const CardLimits& limits) {
  if (const char* why = linearRefusal(l, limits)) return refuse(why);
  const ProductTile t = chooseProductTile(limits, l.rows, l.matrix.n, l.matrix.type, false);
  return planProduct("linear_", t, l.matrix.type, l.type, unsigned(divideUp(l.rows, t.rows) * divideUp(l.matrix.n, t.columns)));
}

}  // namespace ewe::kernels

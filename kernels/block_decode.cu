// The products of a parallel-residual layer's first third for generated rows, as one launch:
//
//   projection  a Wqkv^T + bias: clamped, rotated, queries kept, keys and values into the paged cache (epilogue.cuh)
//   hidden      act(b Wup^T + bias)
//
//   x       [rows, width] float32; a and b are its norms (b is a where there is one), rounded to bfloat16 (paths 800 and 900) or float16
//   Wqkv    [(heads + 2 kvHeads) headSize, width], Wup [inner, width], of the same type or int8, in the order of linear.plan.h
//   hidden  [rows, inner] of the type of a, stride
//
// Up to kNormRows rows (block_in_norm_*) every block normalises x for itself, while its first weights are on their way: its parts of the rows go to
// its eight warps as in norm.cu, by the same functions, and so to the same bits. More rows come from norm.cu through scratch memory. stream.cuh and
// product.cuh are the products, with their own shared memory; the normalised rows lie behind it. Bound by the bytes of the weights, read once. All
// paths.
#include "block_decode.plan.h"
#include "epilogue.cuh"
#include "product.cuh"
#include "rownorm.cuh"
#include "stream.cuh"

namespace ewe::kernels {

DEVICE int liveRows(const Rows& step) { return step.live && *step.live < step.rows ? *step.live : step.rows; }

// The tiles of a block: all of one matrix.
struct Share {
  bool up;
  int first, apart;
};
DEVICE Share shareOf(const BlockIn& b, int outputs) {
  const int blocks = gridX(), projection = blocksOfProjection(divideUp(b.qkvMatrix.n, outputs), divideUp(b.up.n, outputs), blocks);
  if (blockX() < projection) return {false, blockX(), projection};
  return {true, blockX() - projection, blocks - projection};
}

template <class T, class W, int kRows>
DEVICE void streamBlockIn(const BlockIn& b) {
  using S = Stream<T, W, kRows>;
  SHARED(typename S::Shared, shared);
  const Share share = shareOf(b, S::kOutputs);
  int rows = 0;
  auto prepare = [&] {
    rows = liveRows(b.step);
    return RowsInMemory<S::kUnits>::of(normOf(b, share.up), b.width, rows);
  };
  S::run(shared, share.up ? b.up : b.qkvMatrix, share.first, share.apart, prepare, [&](int row, int column, Floats4& v) {
    if (row < rows) finishBlockIn<T>(b, share.up, row, column, v);
  });
}

// ---- With the norms

struct NormSums {
  float sums[kNormRows][kRowParts], rests[kNormRows][kRowParts], squares[kNormRows][kRowParts];
};
static_assert(sizeof(NormSums) == kNormSumBytes && kRowParts == kSlices && kRowWidth == kWidestRow);

// Rows [0, rows) of x normalised into `out`, rows of `pieces` pieces, zeros behind the width. All threads of the block.
template <class T>
DEVICE void normaliseRows(Words4* out, int pieces, NormSums& shared, const BlockIn& b, bool second, int rows) {
  const int width = b.width, padded = inputTiles(width) * kTileInputs;
  const float* x = static_cast<const float*>(b.x);
  const float *weight = second ? b.weight2 : b.weight, *bias = second ? b.bias2 : b.bias;
  RowPart part;
  for (int row = 0; row < rows; row++) {
    loadPart(part, x + (long long)row * width, warp(), width);
    const float sum = sumOfPart(part);
    if (lane() == 0) shared.sums[row][warp()] = sum;
  }
  syncBlock();
  for (int row = 0; row < rows; row++) {
    loadPart(part, x + (long long)row * width, warp(), width);
    const Deviations d = deviationsOfPart(part, meanOf(shared.sums[row], width), warp(), width);
    if (lane() == 0) {
      shared.rests[row][warp()] = d.rest;
      shared.squares[row][warp()] = d.squares;
    }
  }
  syncBlock();
  for (int row = 0; row < rows; row++) {
    const RowStatistics s = statisticsOf(meanOf(shared.sums[row], width), shared.rests[row], shared.squares[row], width, b.eps);
    loadPart(part, x + (long long)row * width, warp(), width);
#pragma unroll
    for (int j = 0; j < kRowGroups; j++) {
      const int column = columnOfPart(warp(), j);
      if (column >= padded) break;
      float v[4];
      applyNorm(v, part.v[j], s, weight, bias, column, width);
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = column + i < width ? v[i] : 0;
      *reinterpret_cast<Words2*>(reinterpret_cast<T*>(out + row * pieces) + column) = {{roundPair<T>(v[0], v[1]), roundPair<T>(v[2], v[3])}};
    }
  }
  syncBlock();
}

struct RowsInShared {
  static constexpr bool kHeld = false;
  const Words4* row;  // this lane's: no more rows than one instruction's columns

  DEVICE Words4 piece(const RowsInShared& r, int, int i, int chunks) { return load(r.row + chunks + i); }
};

template <class T, class W, int kRows>
DEVICE void normBlockIn(const BlockIn& b) {
  using S = Stream<T, W, kRows>;
  static_assert(S::kUnits == 1 && kNormRows <= kUnitRows);
  struct Shared {
    typename S::Shared stream;
    NormSums norm;
    Words4 rows[1];  // and on: as many as the launch asked for
  };
  SHARED(Shared, shared);
  const Share share = shareOf(b, S::kOutputs);
  int rows = 0;
  auto prepare = [&] {
    rows = liveRows(b.step);
    const int pieces = normRowPieces(kPath, b.width), row = rowOfPiece(0);
    Words4* normalised = shared.rows;
    normaliseRows<T>(normalised, pieces, shared.norm, b, share.up && b.weight2, rows);
    return RowsInShared{normalised + (row < rows ? row : 0) * pieces + chunkOfPiece(0)};
  };
  S::run(shared.stream, share.up ? b.up : b.qkvMatrix, share.first, share.apart, prepare, [&](int row, int column, Floats4& v) {
    if (row < rows) finishBlockIn<T>(b, share.up, row, column, v);
  });
}

// ---- Many rows

template <class T, class W, int kRows, int kColumns>
DEVICE void multiplyBlockIn(const BlockIn& b) {
  using P = Product<T, W, kRows, kColumns, true>;
  SHARED(typename P::Shared, shared);
  const int projectionTiles = divideUp(b.qkvMatrix.n, kColumns), rows = liveRows(b.step);
  const TilePlace place = tilePlace(blockX(), divideUp(b.step.rows, kRows), projectionTiles + divideUp(b.up.n, kColumns));
  if (place.row * kRows >= rows) return;
  const bool up = place.column >= projectionTiles;
  const Matrix m = up ? b.up : b.qkvMatrix;
  const int column = (place.column - (up ? projectionTiles : 0)) * kColumns;
  const ProductOperands o = {normOf(b, up), b.width, rows, place.row * kRows, m.data, m.k, m.n, column};
  typename P::Sums sums;
  P::run(sums, shared, o);
  P::finish(sums, shared, o, [&](int row, int at, Floats4& v) { finishBlockIn<T>(b, up, row, at, v); });
}

#define STREAM(kind, body, types, T, W, rows) \
  EWE_KERNEL(block_in_##kind##_##types##_##rows, BlockIn, kStreamThreads, streamTile(kPath, rows, sizeof(W)).blocks) { body<T, W, rows>(args); }
#define MULTIPLY(types, T, W, rows, columns)                                                                     \
  EWE_KERNEL(block_in_decode_##types##_##rows##x##columns, BlockIn, productTile(kPath, rows, columns).threads(), \
             productTile(kPath, rows, columns).blocks) {                                                         \
    multiplyBlockIn<T, W, rows, columns>(args);                                                                  \
  }
#define BLOCK_INS(types, T, W)                   \
  STREAM(decode, streamBlockIn, types, T, W, 16) \
  STREAM(decode, streamBlockIn, types, T, W, 32) \
  MULTIPLY(types, T, W, 64, 32)                  \
  MULTIPLY(types, T, W, 64, 64)                  \
  MULTIPLY(types, T, W, 64, 128)
// The fewest columns of one instruction.
#if EWE_PATH >= 750
#define FEW(types, T, W)                        \
  STREAM(decode, streamBlockIn, types, T, W, 8) \
  STREAM(norm, normBlockIn, types, T, W, 8)
#else
#define FEW(types, T, W) STREAM(norm, normBlockIn, types, T, W, 16)
#endif

BLOCK_INS(f16, f16, f16)
FEW(f16, f16, f16)
#if EWE_PATH >= 800
BLOCK_INS(bf16, bf16, bf16)
FEW(bf16, bf16, bf16)
BLOCK_INS(i8_bf16, bf16, i8)
FEW(i8_bf16, bf16, i8)
#else
BLOCK_INS(i8_f16, f16, i8)
FEW(i8_f16, f16, i8)
#endif

}  // namespace ewe::kernels

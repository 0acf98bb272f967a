// The products of a parallel-residual layer's first third for prompt rows, as one launch whose column tiles choose matrix, operand and epilogue:
//
//   projection  a Wqkv^T + bias: clamped, rotated, queries kept, keys and values into the paged cache (epilogue.cuh)
//   hidden      act(b Wup^T + bias)
//
//   a, b    [rows, width] bfloat16 (paths 800 and 900) or float16: the norms of x, which norm.cu left in scratch memory (b is a where there is one
//   norm) Wqkv    [(heads + 2 kvHeads) headSize, width], Wup [inner, width], of the same type or int8, in the order of linear.plan.h hidden  [rows,
//   inner] of the type of a, stride
//
// One launch fills the card's last turn better than two, and saves a boundary. product.cuh is the product: tiles, shared memory, order of the sums; a
// BlockIn has the bits of a Norm and two Linears. 2 rows width (n + inner) FLOPs, bound by arithmetic from some 200 rows on. All paths.
#include "block.plan.h"
#include "epilogue.cuh"
#include "product.cuh"

namespace ewe::kernels {

template <class T, class W, int kRows, int kColumns>
DEVICE void blockIn(const BlockIn& b) {
  using P = Product<T, W, kRows, kColumns, false>;
  SHARED(typename P::Shared, shared);
  const int projectionTiles = divideUp(b.qkvMatrix.n, kColumns);
  const TilePlace place = tilePlace(blockX(), divideUp(b.step.rows, kRows), projectionTiles + divideUp(b.up.n, kColumns));
  const bool up = place.column >= projectionTiles;
  const Matrix m = up ? b.up : b.qkvMatrix;
  const int column = (place.column - (up ? projectionTiles : 0)) * kColumns;
  const ProductOperands o = {normOf(b, up), b.width, b.step.rows, place.row * kRows, m.data, m.k, m.n, column};
  typename P::Sums sums;
  P::run(sums, shared, o);
  P::finish(sums, shared, o, [&](int row, int at, Floats4& v) { finishBlockIn<T>(b, up, row, at, v); });
}

#define BLOCK_IN(types, T, W, rows, columns)                                                              \
  EWE_KERNEL(block_in_##types##_##rows##x##columns, BlockIn, productTile(kPath, rows, columns).threads(), \
             productTile(kPath, rows, columns).blocks) {                                                  \
    blockIn<T, W, rows, columns>(args);                                                                   \
  }
#define BLOCK_INS(types, T, W)   \
  BLOCK_IN(types, T, W, 64, 32)  \
  BLOCK_IN(types, T, W, 64, 64)  \
  BLOCK_IN(types, T, W, 64, 128) \
  BLOCK_IN(types, T, W, 128, 128)

BLOCK_INS(f16, f16, f16)
#if EWE_PATH >= 800
BLOCK_INS(bf16, bf16, bf16)
BLOCK_INS(i8_bf16, bf16, i8)
BLOCK_IN(f16, f16, f16, 128, 256)
BLOCK_IN(bf16, bf16, bf16, 128, 256)
BLOCK_IN(i8_bf16, bf16, i8, 128, 256)
#else
BLOCK_INS(i8_f16, f16, i8)
#endif

}  // namespace ewe::kernels

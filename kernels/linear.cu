// y = act(x W^T + bias) + residual for prompt rows, or the fused projection's epilogue (epilogue.cuh) instead of y.
//
//   x         [rows, k] bfloat16 (paths 800 and 900) or float16, stride
//   W         [n, k] of the same type or int8, in the order of linear.plan.h
//   y         [rows, n] float32 or the type of x, stride; residual [rows, n] float32, may be y
//
// product.cuh is the product: its tiles, their way through shared memory, the order of the sums. linear.plan.h chooses the tile; none changes a bit.
// 2 rows n k FLOPs; a tile of r rows and c outputs reads (r + c) k numbers from the second-level cache: bound by arithmetic from some 200 rows on, by
// the weights below. All paths.
#include "epilogue.cuh"
#include "product.cuh"

namespace ewe::kernels {

template <class T, class W, int rows, int columns>
DEVICE void linear(const Linear& l) {
  using P = Product<T, W, rows, columns, false>;
  SHARED(typename P::Shared, shared);
  const Matrix& m = l.matrix;
  const TilePlace place = tilePlace(blockX(), divideUp(l.rows, rows), divideUp(m.n, columns));
  const ProductOperands o = {l.x, l.xStride, l.rows, place.row * rows, m.data, m.k, m.n, place.column * columns};
  typename P::Sums sums;
  P::run(sums, shared, o);
  P::finish(sums, shared, o, [&](int row, int column, Floats4& v) { finishLinear<T>(l, row, column, v); });
}

#define LINEAR(types, T, W, rows, columns)                                                                                                         \
  EWE_KERNEL(linear_##types##_##rows##x##columns, Linear, productTile(kPath, rows, columns).threads(), productTile(kPath, rows, columns).blocks) { \
    linear<T, W, rows, columns>(args);                                                                                                             \
  }
#define LINEARS(types, T, W)   \
  LINEAR(types, T, W, 64, 32)  \
  LINEAR(types, T, W, 64, 64)  \
  LINEAR(types, T, W, 64, 128) \
  LINEAR(types, T, W, 128, 128)

LINEARS(f16, f16, f16)
#if EWE_PATH >= 800
LINEARS(bf16, bf16, bf16)
LINEARS(i8_bf16, bf16, i8)
LINEAR(f16, f16, f16, 128, 256)
LINEAR(bf16, bf16, bf16, 128, 256)
LINEAR(i8_bf16, bf16, i8, 128, 256)
#else
LINEARS(i8_f16, f16, i8)
#endif

}  // namespace ewe::kernels

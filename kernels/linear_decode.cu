// y = act(x W^T + bias) + residual for generated rows, or the fused projection's epilogue (epilogue.cuh) instead of y.
//
//   x         [rows, k] bfloat16 (paths 800 and 900) or float16, stride
//   W         [n, k] of the same type or int8, in the order of linear.plan.h
//   y         [rows, n] float32 or the type of x, stride; residual [rows, n] float32, may be y
//
// Up to 32 rows by stream.cuh, which is bound by the bytes of W: n k sizeOf(W), read once; 2 rows n k FLOPs are few against that. More rows, and
// those that do not lie in pieces of 16 bytes, by product.cuh. Both give the same bits. Their heads say what is in shared memory and why the tiles
// are what they are. All paths.
#include "epilogue.cuh"
#include "product.cuh"
#include "stream.cuh"

namespace ewe::kernels {

template <class T, class W, int kRows>
DEVICE void streamLinear(const Linear& l) {
  using S = Stream<T, W, kRows>;
  SHARED(typename S::Shared, shared);
  int rows = l.rows;
  auto prepare = [&] {
    if (l.live && *l.live < rows) rows = *l.live;
    return RowsInMemory<S::kUnits>::of(l.x, l.xStride, rows);
  };
  S::run(shared, l.matrix, blockX(), gridX(), prepare, [&](int row, int column, Floats4& v) {
    if (row < rows) finishLinear<T>(l, row, column, v);
  });
}

template <class T, class W, int kRows, int kColumns>
DEVICE void multiplyLinear(const Linear& l) {
  using P = Product<T, W, kRows, kColumns, true>;
  SHARED(typename P::Shared, shared);
  const Matrix& m = l.matrix;
  const TilePlace place = tilePlace(blockX(), divideUp(l.rows, kRows), divideUp(m.n, kColumns));
  const int rows = l.live && *l.live < l.rows ? *l.live : l.rows;
  if (place.row * kRows >= rows) return;
  const ProductOperands o = {l.x, l.xStride, rows, place.row * kRows, m.data, m.k, m.n, place.column * kColumns};
  typename P::Sums sums;
  P::run(sums, shared, o);
  P::finish(sums, shared, o, [&](int row, int column, Floats4& v) { finishLinear<T>(l, row, column, v); });
}

#define STREAM(types, T, W, rows) \
  EWE_KERNEL(linear_decode_##types##_##rows, Linear, kStreamThreads, streamTile(kPath, rows, sizeof(W)).blocks) { streamLinear<T, W, rows>(args); }
#define MULTIPLY(types, T, W, rows, columns)                                                                  \
  EWE_KERNEL(linear_decode_##types##_##rows##x##columns, Linear, productTile(kPath, rows, columns).threads(), \
             productTile(kPath, rows, columns).blocks) {                                                      \
    multiplyLinear<T, W, rows, columns>(args);                                                                \
  }
#define LINEARS(types, T, W)    \
  STREAM(types, T, W, 16)       \
  STREAM(types, T, W, 32)       \
  MULTIPLY(types, T, W, 64, 32) \
  MULTIPLY(types, T, W, 64, 64) \
  MULTIPLY(types, T, W, 64, 128)

LINEARS(f16, f16, f16)
#if EWE_PATH >= 750
STREAM(f16, f16, f16, 8)
#endif
#if EWE_PATH >= 800
LINEARS(bf16, bf16, bf16)
LINEARS(i8_bf16, bf16, i8)
STREAM(bf16, bf16, bf16, 8)
STREAM(i8_bf16, bf16, i8, 8)
#else
LINEARS(i8_f16, f16, i8)
#if EWE_PATH >= 750
STREAM(i8_f16, f16, i8, 8)
#endif
#endif

}  // namespace ewe::kernels

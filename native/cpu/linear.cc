#include "cpu/cache.h"

namespace ewe::EWE_CPU {

Status Cpu::linear(const Linear& l) {
  const Matrix& m = l.matrix;
  const bool qkv = l.qkv.q != nullptr;
  EWE_TRY(checkProduct(m, l.type, l.rows));
  if (qkv) EWE_TRY(checkCache(l.qkv.cache, l.type, l.rows));
  if (!qkv && (l.outputType == DType::float16 || (l.residual && l.residualType != DType::float32)))
    return Status::fail(Kind::internal, "A CPU Linear gives float32 or bfloat16, and adds a float32 residual.");
  const Matrix* matrices[1] = {&m};
  const Input input(*this, l.x, l.type, l.xStride, l.rows, m.k);
  multiply(
      *this, matrices, 1, l.rows, [&](int, int firstRow, int thread) { return input(firstRow, thread); },
      [&](const Tile& t) {
        addBias(t, m);
        if (qkv) {
          finishQkvTile(l.qkv, l.type, l.step, t, projectionScratch(), m.n);
          return;
        }
        activate(t, l.activation);
        if (l.residual) addResidual(t, static_cast<const float*>(l.residual), m.n);
        storeTile(t, l.y, l.outputType, l.yStride);
      });
  if (qkv) finishQkvRows(*this, l.qkv, l.type, l.step, l.rows, projectionScratch(), m.n);
  return {};
}

}  // namespace ewe::EWE_CPU

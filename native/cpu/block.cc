#include "cpu/cache.h"
#include "cpu/norm.h"

namespace ewe::EWE_CPU {

// Both products are one loop over their tiles. For few rows the norms are no step of their own: each thread computes them for itself, so that a
// decode step waits once.
Status Cpu::blockIn(const BlockIn& b) {
  const int rows = b.step.rows, width = b.width;
  EWE_TRY(checkProduct(b.qkvMatrix, b.type, rows));
  EWE_TRY(checkProduct(b.up, b.type, rows));
  EWE_TRY(checkCache(b.qkv.cache, b.type, rows));
  if (b.residualType != DType::float32) return Status::fail(Kind::internal, "The CPU keeps the residual stream in float32.");

  const Format format = formatOf(b.type);
  const long stride = paddedK(width, b.type), rowBytes = stride * sizeOf(format);
  const bool shared = rows > kPrivateRows;
  const long second = b.weight2 ? rows * rowBytes : 0;  // where the second norm lies behind the first
  auto normRows = [&](int firstRow, int count, char* out) {
    for (int row = firstRow; row < firstRow + count; row++, out += rowBytes) {
      const float* x = static_cast<const float*>(b.x) + (long long)row * width;
      const Statistics s = statistics(x, width, b.eps);
      normalise(x, s, b.weight, b.bias, width, int(stride), out, format);
      if (b.weight2) normalise(x, s, b.weight2, b.bias2, width, int(stride), out + second, format);
    }
  };
  char* all = static_cast<char*>(inputScratch());
  if (shared) each(rows, 8, [&](long begin, long end, int) { normRows(int(begin), int(end - begin), all + begin * rowBytes); });

  const long ticket = takeTicket();
  const Matrix* matrices[2] = {&b.qkvMatrix, &b.up};
  multiply(
      *this, matrices, 2, rows,
      [&](int matrix, int firstRow, int thread) {
        char* in = all + firstRow * rowBytes;
        if (!shared) {
          in = static_cast<char*>(threadScratch(thread)) + kTileBytes;
          if (first(thread, ticket)) normRows(0, rows, in);
        }
        return Operand{in + (matrix == 1 ? second : 0), stride};
      },
      [&](const Tile& t) {
        addBias(t, *matrices[t.matrix]);
        if (t.matrix == 0) {
          finishQkvTile(b.qkv, b.type, b.step, t, projectionScratch(), b.qkvMatrix.n);
        } else {
          activate(t, b.activation);
          storeTile(t, b.hidden, b.type, b.hiddenStride);
        }
      });
  finishQkvRows(*this, b.qkv, b.type, b.step, rows, projectionScratch(), b.qkvMatrix.n);
  return {};
}

Status Cpu::blockOut(const BlockOut& b) {
  EWE_TRY(checkProduct(b.matrix, b.type, b.rows));
  if (b.residualType != DType::float32) return Status::fail(Kind::internal, "The CPU keeps the residual stream in float32.");
  const Matrix* matrices[1] = {&b.matrix};
  const Input input(*this, b.x, b.type, b.matrix.k, b.rows, b.matrix.k);
  multiply(
      *this, matrices, 1, b.rows, [&](int, int firstRow, int thread) { return input(firstRow, thread); },
      [&](const Tile& t) {
        addBias(t, b.matrix);
        addResidual(t, static_cast<const float*>(b.y), b.matrix.n);
        storeTile(t, b.y, DType::float32, b.matrix.n);
      });
  return {};
}

}  // namespace ewe::EWE_CPU

// y = (x - mean) / sqrt(var + eps) * weight + bias: rows [width] of x float32, which `select` may choose, become rows of y [rows, width] float32,
// bfloat16 (paths 800 and 900) or float16; with weight2, y2 is a second norm of the same read. Up to 8,192 columns.
//
// One block of 8 warps a row. A thread keeps its columns in registers from the first pass (mean) through the second (variance) to the third (output),
// so x is read once; weights and biases come from the second-level cache after the first block. rownorm.cuh fixes the order of the sums, which does
// not see the other rows or the grid.
//
// Shared memory: the 8 sums of each pass. Bytes of a row: 4 width read, 2 or 4 width written for each norm; 8 FLOPs a column: bound by memory.
#include "norm.plan.h"
#include "rownorm.cuh"

namespace ewe::kernels {

struct NormShared {
  float sums[kRowParts], rests[kRowParts], squares[kRowParts];
};
static_assert(32 * kRowParts == kNormThreads && kRowWidth == kNormWidth && sizeof(NormShared) == kNormShared);

DEVICE void storeColumns(float* y, const float (&v)[4]) { *reinterpret_cast<Floats4*>(y) = {{v[0], v[1], v[2], v[3]}}; }
template <class T>
DEVICE void storeColumns(T* y, const float (&v)[4]) {
  *reinterpret_cast<Words2*>(y) = {{roundPair<T>(v[0], v[1]), roundPair<T>(v[2], v[3])}};
}

template <class T>
DEVICE void writeNorm(T* y, const RowPart& x, const RowStatistics& s, const float* weight, const float* bias, int width) {
#pragma unroll
  for (int j = 0; j < kRowGroups; j++) {
    const int column = columnOfPart(warp(), j);
    if (column >= width) break;
    float v[4];
    applyNorm(v, x.v[j], s, weight, bias, column, width);
    if (width % 4 == 0) {
      storeColumns(y + column, v);
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (column + i < width) y[column + i] = round<T>(v[i]);
      }
    }
  }
}

template <class T>
DEVICE void norm(const Norm& n) {
  SHARED(NormShared, shared);
  const int row = blockX(), width = n.width;
  if (n.live && row >= *n.live) return;
  const int from = n.select ? n.select[row] : row;
  RowPart x;
  loadPart(x, static_cast<const float*>(n.x) + (long long)from * width, warp(), width);
  const float sum = sumOfPart(x);
  if (lane() == 0) shared.sums[warp()] = sum;
  syncBlock();
  const float mean = meanOf(shared.sums, width);
  const Deviations d = deviationsOfPart(x, mean, warp(), width);
  if (lane() == 0) {
    shared.rests[warp()] = d.rest;
    shared.squares[warp()] = d.squares;
  }
  syncBlock();
  const RowStatistics s = statisticsOf(mean, shared.rests, shared.squares, width, n.eps);
  writeNorm(static_cast<T*>(n.y) + (long long)row * width, x, s, n.weight, n.bias, width);
  if (n.weight2) writeNorm(static_cast<T*>(n.y2) + (long long)row * width, x, s, n.weight2, n.bias2, width);
}

KERNEL(norm_f32, Norm, kNormThreads, 4) { norm<float>(args); }
KERNEL(norm_f16, Norm, kNormThreads, 4) { norm<f16>(args); }
#if EWE_PATH >= 800
KERNEL(norm_bf16, Norm, kNormThreads, 4) { norm<bf16>(args); }
#endif

}  // namespace ewe::kernels

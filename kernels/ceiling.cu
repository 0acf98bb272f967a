// The ceilings of a card, measured: what a copy and a read of device memory reach, and what the tensor cores reach from registers alone.
//
//   copy      2 x 16 bytes a piece     to[i] = from[i]
//   read      16 bytes a piece         nothing is kept, but the compiler cannot know
//   multiply  8 units of 16 x 16 x 16 a warp and round, 65,536 FLOPs; no memory at all
//
// Threads stride by the whole grid, 8 blocks of 256 a multiprocessor (multiply: 2, its registers being what it is about). All paths.
#include "ceiling.plan.h"
#include "tile.cuh"

namespace ewe::kernels {

DEVICE long long firstPiece() { return (long long)blockX() * threads() + thread(); }
DEVICE long long stridePieces() { return (long long)gridX() * threads(); }

KERNEL(ceiling_copy, Ceiling, 256, 8) {
  for (long long i = firstPiece(); i < args.count; i += stridePieces())
    static_cast<Words4*>(args.to)[i] = loadStreaming(static_cast<const Words4*>(args.from) + i);
}

KERNEL(ceiling_read, Ceiling, 256, 8) {
  unsigned seen = 0;
  for (long long i = firstPiece(); i < args.count; i += stridePieces()) {
    const Words4 words = loadStreaming(static_cast<const Words4*>(args.from) + i);
    seen |= words.w[0] ^ words.w[1] ^ words.w[2] ^ words.w[3];
  }
  if (seen == args.never) static_cast<unsigned*>(args.to)[0] = seen;
}

template <class T>
DEVICE void multiplyAll(const Ceiling& args) {
  FragmentA a;
  FragmentB b;
  for (int i = 0; i < kFragmentWords; i++) {
    a.r[i] = roundPair<T>(float(lane() + i) * 0.01f, float(lane() - i) * 0.01f);
    b.r[i] = roundPair<T>(float(lane() * i) * 0.001f, float(i - 2));
  }
  Acc acc[kCeilingAccumulators];
#pragma unroll
  for (int i = 0; i < kCeilingAccumulators; i++) clear(acc[i]);
  for (int round = 0; round < args.rounds; round++) {
#pragma unroll
    for (int i = 0; i < kCeilingAccumulators; i++) multiply<T>(acc[i], a, b);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kCeilingAccumulators; i++) {
#pragma unroll
    for (int j = 0; j < 8; j++) sum += acc[i].v[j];
  }
  if (bitsOf(sum) == args.never) static_cast<float*>(args.to)[0] = sum;
}

KERNEL(ceiling_multiply_f16, Ceiling, 256, 2) { multiplyAll<f16>(args); }
#if EWE_PATH >= 800
KERNEL(ceiling_multiply_bf16, Ceiling, 256, 2) { multiplyAll<bf16>(args); }
#endif

}  // namespace ewe::kernels

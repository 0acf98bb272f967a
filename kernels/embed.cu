// x[i] = table[token[i]]: rows of the embedding table [vocab, width] float32, bfloat16 or float16 become the residual stream [rows, width] float32.
//
// One row by blockX, kEmbedThreads pieces of 16 bytes of it by blockY. Where a row of the table is no whole number of pieces, its threads take the
// numbers of their piece one by one. No shared memory. 2 or 4 bytes a number read, 4 written, no FLOPs: bound by memory, and a thousandth of a step.
// All paths: bfloat16 only has to be widened, which is a shift.
//
// A token outside the table can't be refused here, so it gives a row of NaN, which reaches the log-probabilities and is seen there.
#include "embed.plan.h"
#include "seam.cuh"

namespace ewe::kernels {

template <class T>
struct alignas(16) Piece {
  T v[16 / sizeof(T)];
};

template <class T>
DEVICE void embed(const Embed& e) {
  constexpr int kNumbers = 16 / sizeof(T);
  const int row = blockX();
  if (e.rows.live && row >= *e.rows.live) return;
  const int column = (blockY() * kEmbedThreads + thread()) * kNumbers;
  const int token = e.rows.token[row];
  const bool known = token >= 0 && token < e.vocab, whole = e.width % kNumbers == 0;
  if (column >= e.width) return;
  const T* from = static_cast<const T*>(e.table) + (long long)(known ? token : 0) * e.width + column;
  float* to = static_cast<float*>(e.x) + (long long)row * e.width + column;
  if (!known) {
    for (int i = 0; i < kNumbers && column + i < e.width; i++) to[i] = floatOf(0x7FC00000u);
  } else if (whole) {
    const Piece<T> piece = load(reinterpret_cast<const Piece<T>*>(from));
#pragma unroll
    for (int i = 0; i < kNumbers; i += 4) {
      *reinterpret_cast<Floats4*>(to + i) = {{toFloat(piece.v[i]), toFloat(piece.v[i + 1]), toFloat(piece.v[i + 2]), toFloat(piece.v[i + 3])}};
    }
  } else {
    for (int i = 0; i < kNumbers && column + i < e.width; i++) to[i] = toFloat(from[i]);
  }
}

KERNEL(embed_f32, Embed, kEmbedThreads, 8) { embed<float>(args); }
KERNEL(embed_bf16, Embed, kEmbedThreads, 8) { embed<bf16>(args); }
KERNEL(embed_f16, Embed, kEmbedThreads, 8) { embed<f16>(args); }

}  // namespace ewe::kernels

// The functions of the seam by themselves, on every path. twins.cc foresees what they come to; the same file, compiled for a card, shows that a card
// agrees.
#include "test/emulator/twins.h"

#include "kernels/seam.cuh"

namespace ewe::kernels {

// ---- Lanes and warps. 64 threads, 3 x 2 x 2 blocks; out[block][thread][kLaneResults]

struct LaneShared {
  unsigned sum, most, least;
  unsigned long long total, top;
  int order[2];
};

KERNEL(twins_lanes, Twins, 64, 1) {
  SHARED(LaneShared, s);
  const int block = blockX() + gridX() * (blockY() + gridY() * blockZ());
  auto* out = static_cast<unsigned long long*>(args.out) + (block * threads() + thread()) * kLaneResults;
  const unsigned long long wide = 0x100000001ull * unsigned(thread() + 7);
  if (thread() == 0) {
    s.sum = 0;
    s.most = 0;
    s.least = ~0u;
    s.total = s.top = 0;
  }
  syncBlock();
  atomicAdd(&s.sum, unsigned(thread()));
  atomicMax(&s.most, unsigned(thread() * 3));
  atomicMin(&s.least, unsigned(thread() + 5));
  atomicAdd(&s.total, wide);
  atomicMax(&s.top, wide);
  syncBlock();
  out[0] = unsigned(shuffleXor(thread(), 5)) | (unsigned long long)shuffleXor(unsigned(thread()), 16) << 32;
  out[1] = shuffleXor(wide, 1);
  out[2] = bitsOf(shuffleXor(float(thread()), 31)) | (unsigned long long)bitsOf(shuffle(float(thread()), 9)) << 32;
  out[3] = unsigned(shuffle(thread(), (lane() * 7) & 31)) | (unsigned long long)shuffle(unsigned(thread()), 31 - lane()) << 32;
  out[4] = shuffle(wide, 30);
  out[5] = shuffleUp(wide, 3);
  out[6] = unsigned(shuffleUp(thread(), 16)) | (unsigned long long)ballot(thread() % 3 == 0) << 32;
  out[7] = s.sum | (unsigned long long)s.most << 32;
  out[8] = s.least | s.total << 32;
  out[9] = s.top;
  out[10] = unsigned(lane()) | unsigned(warp()) << 8 | unsigned(gridZ()) << 16 | unsigned(gridX() * 10 + gridY()) << 24;
  // The second warp waits for the first, then the first for the second.
  if (warp() == 0 && lane() == 0) s.order[0] = 40 + block;
  syncSome(1, 64);
  if (warp() == 1 && lane() == 0) s.order[1] = s.order[0] + 1;
  syncSome(2, 64);
  out[11] = unsigned(s.order[1]);
}

// ---- Numbers. out[i][kNumberResults] of the float a[i]; out2 of the pairs

KERNEL(twins_numbers, Twins, 64, 1) {
  const int i = blockX() * threads() + thread();
  if (i >= args.n) return;
  const float x = static_cast<const float*>(args.a)[i], y = static_cast<const float*>(args.b)[i];
  auto* out = static_cast<unsigned*>(args.out) + i * kNumberResults;
  out[0] = roundF16(x).bits;
  out[1] = bitsOf(toFloat(f16{(unsigned short)i}));
  out[2] = roundPairF16(x, y);
#if EWE_PATH >= 800
  out[3] = roundPairBf16(x, y);
#else
  out[3] = 0;
#endif
  out[4] = bitsOf(toFloat(bf16{(unsigned short)i}));
  out[5] = subtractPairF16(roundPairF16(x, y), roundPairF16(y, x));
  out[6] = pickBytes(bitsOf(x), bitsOf(y), unsigned(i) * 0x1357u);
  out[7] = unsigned(countOnes(bitsOf(x))) | unsigned(leadingZeros(bitsOf(x))) << 8 | unsigned(leadingZeros(0)) << 16;
  out[8] = bitsOf(maxOf(x, y));
  out[9] = bitsOf(minOf(x, y));
  out[10] = bitsOf(fmaOf(x, y, 1.0f));
  out[11] = bitsOf(addOf(x * y, 1.0f));
  out[12] = bitsOf(rsqrtOf(floatOf(bitsOf(x) & 0x7FFFFFFFu)));
  out[13] = bitsOf(exp2Of(x));
  out[14] = bitsOf(saturateF16(x));
  out[15] = roundPair<f16>(x, y);
}

// ---- Copies: out[i] = a[i] where b[i] is not 0, else 0; one block

struct CopyShared {
  Words4 piece[1];
};

KERNEL(twins_copies, Twins, 64, 1) {
  SHARED(CopyShared, s);
  const auto* from = static_cast<const Words4*>(args.a);
  for (int i = thread(); i < args.n; i += threads()) copyAsync16(&s.piece[i], from + i, static_cast<const int*>(args.b)[i] != 0);
  commitCopies();
  waitCopies<0>();
  syncBlock();
  for (int i = thread(); i < args.n; i += threads()) {
    const Words4 one = s.piece[args.n - 1 - i], other = loadConstant(from + i), third = loadStreaming(from + i);
    for (int w = 0; w < 4; w++) {
      static_cast<Words4*>(args.out)[args.n - 1 - i].w[w] = one.w[w];
      static_cast<Words4*>(args.out)[args.n + i].w[w] = other.w[w] ^ third.w[w];
    }
  }
}

// ---- Matrix loads: r[4] of each lane, straight and transposed, of rows that a[lane] numbers

#if EWE_PATH >= 750
struct MatrixShared {
  Words4 row[64];
};

KERNEL(twins_matrices, Twins, 32, 1) {
  SHARED(MatrixShared, s);
  for (int i = lane(); i < 64; i += 32)
    for (int w = 0; w < 4; w++) s.row[i].w[w] = unsigned(i * 8 + 2 * w) | unsigned(i * 8 + 2 * w + 1) << 16;
  syncWarp();
  unsigned r[4], t[4];
  const int row = static_cast<const int*>(args.a)[lane()];
  loadMatrices(r, &s.row[row]);
  loadMatricesTransposed(t, &s.row[row]);
  for (int i = 0; i < 4; i++) {
    static_cast<unsigned*>(args.out)[lane() * 8 + i] = r[i];
    static_cast<unsigned*>(args.out)[lane() * 8 + 4 + i] = t[i];
  }
}
#endif

// ---- Products: registers a, b, c as each lane has them -> c

#if EWE_PATH >= 750
template <class T>
DEVICE void product(const Twins& args) {
  float c[4];
  for (int i = 0; i < 4; i++) c[i] = static_cast<const float*>(args.c)[lane() * 4 + i];
  unsigned a[4], b[2];
  for (int i = 0; i < 4; i++) a[i] = static_cast<const unsigned*>(args.a)[lane() * 4 + i];
  for (int i = 0; i < 2; i++) b[i] = static_cast<const unsigned*>(args.b)[lane() * 2 + i];
  multiply16816<T>(c, a, b);
  for (int i = 0; i < 4; i++) static_cast<float*>(args.out)[lane() * 4 + i] = c[i];
}
KERNEL(twins_product_f16, Twins, 32, 1) { product<f16>(args); }
#if EWE_PATH >= 800
KERNEL(twins_product_bf16, Twins, 32, 1) { product<bf16>(args); }
#endif
#else
template <bool rowB>
DEVICE void product(const Twins& args) {
  float c[8];
  for (int i = 0; i < 8; i++) c[i] = static_cast<const float*>(args.c)[lane() * 8 + i];
  unsigned a[2], b[2];
  for (int i = 0; i < 2; i++) a[i] = static_cast<const unsigned*>(args.a)[lane() * 2 + i];
  for (int i = 0; i < 2; i++) b[i] = static_cast<const unsigned*>(args.b)[lane() * 2 + i];
  multiply884<rowB>(c, a, b);
  for (int i = 0; i < 8; i++) static_cast<float*>(args.out)[lane() * 8 + i] = c[i];
}
KERNEL(twins_product_rows, Twins, 32, 1) { product<true>(args); }
KERNEL(twins_product_columns, Twins, 32, 1) { product<false>(args); }
#endif

}  // namespace ewe::kernels

// Small kernels of the shapes that matter, right as they are; args.fault takes away a barrier, a wait or a bound. Path 800.
#include "test/emulator/planted.h"

#include "kernels/seam.cuh"

namespace ewe::kernels {

// ---- out[32 x 32] f32 = a[32 x k] b[32 x k]^T, f16: two tiles in flight, each of 32 columns; 4 warps of 16 x 16

struct GemmShared {
  struct Stage {
    Words4 a[kTile][4], b[kTile][4];  // 64-byte rows as four pieces, swizzled
  } stage[2];
};

DEVICE int placeOf(const Planted& args, int row, int piece) { return args.fault == kNoSwizzle ? piece : piece ^ (row >> 1 & 3); }

DEVICE void loadTile(const Planted& args, GemmShared::Stage& stage, int step) {
  for (int i = thread(); i < kTile * 4; i += threads()) {
    const int row = i / 4, piece = i % 4;
    const long long from = (long long)row * args.k + step * kTileK + piece * 8;
    copyAsync16(&stage.a[row][placeOf(args, row, piece)], static_cast<const f16*>(args.a) + from, true);
    copyAsync16(&stage.b[row][placeOf(args, row, piece)], static_cast<const f16*>(args.b) + from, true);
  }
}

KERNEL(planted_gemm, Planted, 128, 4) {
  SHARED(GemmShared, s);
  const int row = 16 * (warp() & 1), column = 16 * (warp() >> 1), steps = args.k / kTileK;
  float c[2][4] = {};
  loadTile(args, s.stage[0], 0);
  commitCopies();
  for (int step = 0; step < steps; step++) {
    GemmShared::Stage& stage = s.stage[step & 1];
    if (step + 1 < steps) loadTile(args, s.stage[(step + 1) & 1], step + 1);
    if (args.fault != kNoCommit) commitCopies();
    if (args.fault != kNoWait) waitCopies<1>();
    if (args.fault != kNoBarrierAfterWait) syncBlock();
    for (int k = 0; k < 2; k++) {
      unsigned a[4], b[4];
      const int atA = row + lane() % 16, atB = column + lane() % 8 + lane() / 16 * 8;
      loadMatrices(a, &stage.a[atA][placeOf(args, atA, 2 * k + lane() / 16)]);
      loadMatrices(b, &stage.b[atB][placeOf(args, atB, 2 * k + lane() / 8 % 2)]);
      multiply16816<f16>(c[0], a, b);
      multiply16816<f16>(c[1], a, b + 2);
    }
    if (args.fault != kNoBarrierAfterUse) syncBlock();
  }
  if (args.fault == kNoWait) waitCopies<0>();
  for (int i = 0; i < 8; i++) {
    const int r = row + lane() / 4 + 8 * (i >> 1 & 1), j = column + 8 * (i >> 2) + 2 * (lane() % 4) + (i & 1);
    static_cast<float*>(args.out)[r * kTile + j] = c[i >> 2][i & 3];
  }
}

// ---- out[row] = sum of a[row, 0 .. k): one block for all rows, one after the other

struct ReduceShared {
  float part[4];
};

KERNEL(planted_reduce, Planted, 128, 4) {
  SHARED(ReduceShared, s);
  for (int row = 0; row < args.n; row++) {
    float sum = 0;
    for (int i = thread(); i < args.k; i += threads()) sum += static_cast<const float*>(args.a)[row * args.k + i];
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffleXor(sum, mask);
    if (lane() == 0) s.part[warp()] = sum;
    if (args.fault != kNoLeadingBarrier) syncBlock();
    sum = s.part[0] + s.part[1] + s.part[2] + s.part[3];
    if (thread() == row % threads()) static_cast<float*>(args.out)[row] = sum;
    if (args.fault != kNoTrailingBarrier) syncBlock();
  }
}

// ---- out[128 x 16] = softmax(a b^T) b over n keys, fp32: a thread has one query, the block goes through tiles of 32 keys, one in shared memory

struct AttendShared {
  Floats4 keys[kKeys][kHead / 4];
};

KERNEL(planted_attend, Planted, kQueries, 4) {
  SHARED(AttendShared, s);
  const float* query = static_cast<const float*>(args.a) + thread() * kHead;
  float best = -1e30f, total = 0, sum[kHead] = {};
  for (int first = 0; first < args.n; first += kKeys) {
    const int i = thread();  // kKeys * kHead / 4 pieces: one each
    copyAsync16(&s.keys[i / 4][i % 4], static_cast<const float*>(args.b) + first * kHead + 4 * i, true);
    commitCopies();
    waitCopies<0>();
    syncBlock();
    for (int key = 0; key < kKeys; key++) {
      const float* k = s.keys[key][0].v;
      float score = 0;
      for (int d = 0; d < kHead; d++) score += query[d] * k[d];
      const float most = maxOf(best, score), scale = expOf(best - most), weight = expOf(score - most);
      best = most;
      total = total * scale + weight;
      for (int d = 0; d < kHead; d++) sum[d] = sum[d] * scale + weight * k[d];
      if (key % 8 == 0) syncWarp();  // warps take turns here, as they do where they have matrix instructions
    }
    if (args.fault != kNoEndBarrier) syncBlock();
  }
  for (int d = 0; d < kHead; d++) static_cast<float*>(args.out)[thread() * kHead + d] = sum[d] / total;
}

// ---- out = the largest key whose own and all larger keys' masses reach b[0]: a radix search, 6 bits a pass over 18-bit keys a[n], mass 1 each

struct SelectShared {
  unsigned bins[kBins];
  unsigned prefix, left;
};

KERNEL(planted_select, Planted, 128, 4) {
  SHARED(SelectShared, s);
  const auto* keys = static_cast<const unsigned*>(args.a);
  unsigned prefix = 0, left = *static_cast<const unsigned*>(args.b);
  for (int shift = 12; shift >= 0; shift -= 6) {
    for (int i = thread(); i < kBins; i += threads()) s.bins[i] = 0;
    if (args.fault != kNoBarrierAfterClear) syncBlock();
    for (int i = thread(); i < args.n; i += threads())
      if (keys[i] >> (shift + 6) == prefix >> (shift + 6)) atomicAdd(&s.bins[keys[i] >> shift & (kBins - 1)], 1u);
    syncBlock();
    if (thread() == 0) {
      unsigned seen = 0;
      int bin = kBins;
      while (seen < left && bin > 0) seen += s.bins[--bin];
      s.prefix = prefix | unsigned(bin) << shift;
      s.left = left - (seen - s.bins[bin]);
    }
    if (args.fault != kNoBarrierBeforeAnswer) syncBlock();
    prefix = s.prefix;
    left = s.left;
  }
  if (thread() == threads() - 1) *static_cast<unsigned*>(args.out) = prefix;
}

// ---- out[warp] = sum of a[thread], through shared memory within a warp

struct WarpShared {
  float v[4][32];
};

KERNEL(planted_warp, Planted, 128, 4) {
  SHARED(WarpShared, s);
  auto& v = s.v[warp()];
  v[lane()] = static_cast<const float*>(args.a)[thread()];
  if (args.fault != kLockStep) syncWarp();
  for (int width = 16; width > 0; width /= 2) {
    if (lane() < width) v[lane()] += v[lane() + width];
    if (args.fault != kLockStep) syncWarp();
  }
  if (lane() == 0) static_cast<float*>(args.out)[warp()] = v[0];
}

// ---- out[0] = sum over the blocks of their part; the last block to finish adds. b: [0] a counter, then the parts

KERNEL(planted_blocks, Planted, 32, 4) {
  auto* counter = static_cast<unsigned*>(const_cast<void*>(args.b));
  auto* parts = reinterpret_cast<volatile unsigned*>(counter + 1);
  if (thread() != 0) return;
  parts[args.fault == kSameWord ? 0 : blockX()] = unsigned(blockX() + 1);
  if (args.fault != kNoFence) fence();
  if (atomicAdd(counter, 1u) != unsigned(gridX() - 1)) return;
  if (args.fault != kNoFence) fence();
  unsigned sum = 0;
  for (int i = 0; i < gridX(); i++) sum += parts[i];
  *static_cast<unsigned*>(args.out) = sum;
}

// ---- Meetings that not all come to. out[thread] = its lane's partner

KERNEL(planted_meet, Planted, 64, 4) {
  auto* out = static_cast<int*>(args.out);
  if (args.fault == kEarlyExit && warp() == 1) return;
  if (args.fault == kDivergence && warp() == 1) {
    syncBlock();
  } else {
    syncBlock();
  }
  if (args.fault == kTooFewForNamed && warp() == 1) return;
  syncSome(1, 64);
  int partner = -1;
  if (args.fault == kMixedInstructions && lane() == 7) partner = int(ballot(true));
  if (args.fault != kAbsentLane || lane() != 3) partner = shuffleXor(thread(), 1);
  out[thread()] = partner;
}

}  // namespace ewe::kernels

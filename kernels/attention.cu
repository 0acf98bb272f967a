// Attention of prompt rows: for each row and query head, y = softmax(scale q K^T) V over the positions 0 .. position of the row, from the paged
// cache.
//
//   q      [rows, heads * headSize] bfloat16 (paths 800 and 900) or float16, rotated
//   cache  [page][K, then V][kvHead] blocks of pageSize rows of headSize components, same type, keys rotated; query head i reads key-value head
//          i / (heads / kvHeads); 16 positions from a multiple of 16 on lie in one page
//   y      [rows, heads * headSize] same type, stride yStride
//
// The scheme is that of FlashAttention-2. A block takes a tile of rows of one sequence and one head (blockX), the last tiles, which have most to
// read, first (blockY). It goes through the positions in tiles of keys from 0 on: S = Q K^T in the accumulators of the matrix units, each row's
// largest score and sum rescaled as they grow, P = 2^(S - largest) rounded to 16 bits where it lies, which is the layout that a left operand wants,
// then O += P V. Each warp has rows of its own and meets the others only where shared memory changes hands. The sums are those of P before its
// rounding: taking them back from 16 bits would cost one more instruction an element, against errors that are within those of the rounding itself.
//
// The same bits: which other rows share a tile decides where the tile's last keys lie, and no more. Keys behind a row's own position have the weight
// 0 exactly, leave its largest score as it is (then the factor is 2^0 = 1) and add zeros; where there is no key at all the value is 0 too, for what
// lies in a page that nobody wrote may be NaN. A zero sum may become +0 by that, so the result is never -0.
//
// Shared memory: Q (rows), K and V (keys each) as rows of 16-byte pieces; powers of two are swizzled, 80 and 96 components have a piece more in a
// row: no bank conflicts, and nothing is multiplied that is not there. While S is computed the values come, while P V is computed the next keys come:
// from path 800 on by asynchronous copies, below through registers. Why these tiles: attention.plan.h.
//
// A tile of keys costs 4 * rows * keys * headSize FLOPs and 4 * keys * headSize bytes, which all blocks but the first find in the second-level cache:
// bound by arithmetic from some 100 rows on. All paths.
#include "attention.plan.h"
#include "tile.cuh"

namespace ewe::kernels {

DEVICE float minusInfinity() { return floatOf(0xFF800000u); }

template <int headSize>
struct Prefill {
  static constexpr AttendTile kTile = attendTile(kPath, headSize);
  static constexpr int kPieces = headSize / 8, kPlaces = attendRowPlaces(headSize);
  static constexpr int kKeyTiles = kTile.keys / 16, kHeadTiles = headSize / 16;
  static constexpr int kSteps = headSize > 128 ? 4 : kHeadTiles;        // of a product written out: more of 256 components' 16 are too many addresses
  static constexpr int kWarpKeys = kTile.keys / kTile.warps;            // that a warp brings
  static constexpr int kCopies = divideUp(kWarpKeys * kPieces, 32);     // of a lane for them
  static_assert(16 % kWarpKeys == 0 && kTile.keys % kTile.warps == 0);  // so that they lie in one page

  struct Shared {
    Words4 q[kTile.rows() * kPlaces], keys[kTile.keys * kPlaces], values[kTile.keys * kPlaces];
  };
  static_assert(sizeof(Shared) == size_t(attendSharedBytes(kPath, headSize)));

  // What a warp has in registers: scores, sums, and of each of a lane's two rows in a tile the largest scaled score and (over this lane's columns)
  // the sum.
  struct Sums {
    Acc o[kTile.rowTiles][kHeadTiles];
    float top[kTile.rowTiles][2], total[kTile.rowTiles][2];
  };
  // Pieces on their way through registers, below path 800.
  struct Held {
    Words4 piece[kPath < 800 ? kCopies : 1];
  };
};

template <int headSize>
DEVICE int placeOf(int row, int piece) {
  using P = Prefill<headSize>;
  if constexpr (P::kPlaces == P::kPieces) return swizzled<P::kPieces>(row, piece);
  return row * P::kPlaces + piece;
}

// ---- Which rows

struct RowTile {
  int sequence, first, rows;  // first: row of the step
};

// The tile of this number, counted through the sequences; false where there are not so many. A warp looks at 32 sequences at once.
DEVICE bool findTile(const Rows& step, int number, int rowsOfTile, RowTile& tile) {
  for (int base = 0; base < step.promptSequences; base += 32) {
    const int sequence = base + lane();
    const bool valid = sequence < step.promptSequences;
    const int first = valid ? step.start[sequence] : 0, rows = valid ? step.start[sequence + 1] - first : 0;
    const int tiles = divideUp(rows, rowsOfTile);
    int end = tiles;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int before = shuffleUp(end, distance);
      if (lane() >= distance) end += before;
    }
    const unsigned behind = ballot(number < end);
    if (behind) {
      const int owner = countOnes(~behind);  // the lanes whose tiles all lie before are the first ones
      const int skipped = (number - shuffle(end - tiles, owner)) * rowsOfTile, left = shuffle(rows, owner) - skipped;
      tile = {base + owner, shuffle(first, owner) + skipped, left < rowsOfTile ? left : rowsOfTile};
      return true;
    }
    number -= shuffle(end, 31);
  }
  return false;
}

// ---- Keys and values into shared memory: each warp brings rows of its own, which lie together in one page

// Where the keys of a warp's rows begin in the cache, given the first position of the tile and how many from there on are known.
template <int headSize>
DEVICE const char* warpKeys(const Attend& a, int sequence, int kvHead, int first, int known) {
  using P = Prefill<headSize>;
  const int row = P::kWarpKeys * warp(), position = first + row;
  const char* at = static_cast<const char*>(a.cache.data);
  if (row >= known) return at;  // nothing will be read, but this is an address
  const long long page = a.step.pages[(long long)sequence * a.step.pagesStride + position / a.cache.pageSize];
  return at + (page * 2 * a.cache.kvHeads + kvHead) * a.cache.blockBytes + position % a.cache.pageSize * (2 * headSize);
}

// Begins to bring a tile of keys or values, of which the first `known` are there.
template <int headSize>
DEVICE void fetch(typename Prefill<headSize>::Held& held, Words4* to, const char* from, int known) {
  using P = Prefill<headSize>;
#pragma unroll
  for (int i = 0; i < P::kCopies; i++) {
    const int piece = lane() + 32 * i, row = P::kWarpKeys * warp() + piece / P::kPieces;
    if (32 * i + 32 > P::kWarpKeys * P::kPieces && piece >= P::kWarpKeys * P::kPieces) break;
    if constexpr (kPath >= 800) {
      copyAsync16(to + placeOf<headSize>(row, piece % P::kPieces), from + piece * 16, row < known);
    } else {
      held.piece[i] = row < known ? loadConstant(reinterpret_cast<const Words4*>(from + piece * 16)) : Words4{};
    }
  }
  commitCopies();
}

// What fetch began is in place for this thread; for the others behind the next barrier.
template <int headSize>
DEVICE void finish(const typename Prefill<headSize>::Held& held, Words4* to) {
  using P = Prefill<headSize>;
  if constexpr (kPath < 800) {
#pragma unroll
    for (int i = 0; i < P::kCopies; i++) {
      const int piece = lane() + 32 * i, row = P::kWarpKeys * warp() + piece / P::kPieces;
      if (piece < P::kWarpKeys * P::kPieces) to[placeOf<headSize>(row, piece % P::kPieces)] = held.piece[i];
    }
  }
  waitCopies<0>();
}

template <int headSize>
DEVICE void copyQueries(const Attend& a, const RowTile& tile, int head, Words4* to) {
  using P = Prefill<headSize>;
  const Words4* from = static_cast<const Words4*>(a.q) + ((long long)tile.first * a.heads + head) * P::kPieces;
  for (int i = thread(); i < P::kTile.rows() * P::kPieces; i += P::kTile.threads()) {
    const int row = i / P::kPieces, piece = i % P::kPieces;
    const bool valid = row < tile.rows;
    copyAsync16(to + placeOf<headSize>(row, piece), from + (valid ? (long long)row * a.heads * P::kPieces + piece : 0), valid);
  }
}

// ---- The two products and what lies between

template <class T, int headSize>
DEVICE void multiplyKeys(const typename Prefill<headSize>::Shared& shared,
                         Acc (&s)[Prefill<headSize>::kTile.rowTiles][Prefill<headSize>::kKeyTiles]) {
  using P = Prefill<headSize>;
  const int firstRow = 16 * P::kTile.rowTiles * warp();
#pragma unroll
  for (int m = 0; m < P::kTile.rowTiles; m++) {
#pragma unroll
    for (int n = 0; n < P::kKeyTiles; n++) clear(s[m][n]);
  }
#pragma unroll(P::kSteps)
  for (int k = 0; k < P::kHeadTiles; k++) {
    FragmentA q[P::kTile.rowTiles];
#pragma unroll
    for (int m = 0; m < P::kTile.rowTiles; m++)
      loadA(q[m], [&](int row, int half) -> const void* { return shared.q + placeOf<headSize>(firstRow + 16 * m + row, 2 * k + half); });
#pragma unroll
    for (int n = 0; n < P::kKeyTiles; n++) {
      FragmentB keys;
      loadB(keys, [&](int key, int half) -> const void* { return shared.keys + placeOf<headSize>(16 * n + key, 2 * k + half); });
#pragma unroll
      for (int m = 0; m < P::kTile.rowTiles; m++) multiply<T>(s[m][n], q[m], keys);
    }
  }
}

// Scores become weights. The tile's row 0 stands at its key `diagonal`: what lies behind is not for it to see.
template <int keyTiles, int headTiles>
DEVICE void weigh(Acc (&s)[keyTiles], Acc (&o)[headTiles], float (&top)[2], float (&total)[2], int diagonal, float scale) {
  float largest[2] = {minusInfinity(), minusInfinity()}, factor[2];
  if (diagonal < 16 * keyTiles - 1) {
#pragma unroll
    for (int n = 0; n < keyTiles; n++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        if (16 * n + columnOf(i) > diagonal + rowOf(slotOf(i))) s[n].v[i] = minusInfinity();
      }
    }
  }
#pragma unroll
  for (int n = 0; n < keyTiles; n++) {
#pragma unroll
    for (int i = 0; i < 8; i++) largest[slotOf(i)] = maxOf(largest[slotOf(i)], s[n].v[i]);
  }
#pragma unroll
  for (int slot = 0; slot < 2; slot++) {
    const float next = maxOf(top[slot], rowMax(largest[slot]));
    factor[slot] = exp2Of((top[slot] - next) * scale);
    top[slot] = next;
    total[slot] *= factor[slot];
  }
#pragma unroll
  for (int n = 0; n < keyTiles; n++) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      s[n].v[i] = exp2Of((s[n].v[i] - top[slotOf(i)]) * scale);  // exactly 1 at the largest, however large that is
      total[slotOf(i)] += s[n].v[i];
    }
  }
  // Mostly no row of a warp has a new largest score, and a product with 1 changes nothing.
  if (ballot(factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
    for (int n = 0; n < headTiles; n++) {
#pragma unroll
      for (int i = 0; i < 8; i++) o[n].v[i] *= factor[slotOf(i)];
    }
  }
}

template <class T>
DEVICE unsigned packWeights(float low, float high) {
  if constexpr (kIsBf16<T>) return roundPair<T>(low, high);
  return roundPairF16(low, high);  // at most 1: nothing to saturate
}

// Accumulators as a left operand. From path 750 on they lie as that wants them; on 700 a lane of it has a whole row, which 4 lanes of the
// accumulators share: the one that differs in bit 1 has the other row of two and the columns between, the one that differs in bit 3 the other 8
// columns.
template <class T>
DEVICE void weightsAsRows(FragmentA& a, const Acc& p) {
  unsigned pair[4];
#pragma unroll
  for (int i = 0; i < 4; i++) pair[i] = packWeights<T>(p.v[2 * i], p.v[2 * i + 1]);
  if constexpr (kPath >= 750) {
#pragma unroll
    for (int i = 0; i < 4; i++) a.r[i] = pair[i];
  } else {
    const bool second = lane() & 2, right = lane() & 8;
    unsigned half[4];  // 8 columns of the lane's row
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const unsigned own = second ? pair[2 * i + 1] : pair[2 * i], other = shuffleXor(second ? pair[2 * i] : pair[2 * i + 1], 2);
      half[2 * i] = second ? other : own;
      half[2 * i + 1] = second ? own : other;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const unsigned other = shuffleXor(half[i], 8);
      a.r[i] = right ? other : half[i];
      a.r[kFragmentWords - 4 + i] = right ? half[i] : other;
    }
  }
}

template <class T, int headSize>
DEVICE void multiplyValues(const typename Prefill<headSize>::Shared& shared,
                           const Acc (&p)[Prefill<headSize>::kTile.rowTiles][Prefill<headSize>::kKeyTiles],
                           Acc (&o)[Prefill<headSize>::kTile.rowTiles][Prefill<headSize>::kHeadTiles]) {
  using P = Prefill<headSize>;
  FragmentA weights[P::kKeyTiles][P::kTile.rowTiles];
#pragma unroll
  for (int k = 0; k < P::kKeyTiles; k++) {
#pragma unroll
    for (int m = 0; m < P::kTile.rowTiles; m++) weightsAsRows<T>(weights[k][m], p[m][k]);
  }
#pragma unroll
  for (int k = 0; k < P::kKeyTiles; k++) {
#pragma unroll
    for (int n = 0; n < P::kHeadTiles; n++) {
      FragmentBt values;
      loadBt(values, [&](int key, int half) -> const void* { return shared.values + placeOf<headSize>(16 * k + key, 2 * n + half); });
#pragma unroll
      for (int m = 0; m < P::kTile.rowTiles; m++) multiply<T>(o[m][n], weights[k][m], values);
    }
  }
}

template <class T, int headSize>
DEVICE void writeRows(const Attend& a, const RowTile& tile, int head, typename Prefill<headSize>::Sums& sums) {
  using P = Prefill<headSize>;
#pragma unroll
  for (int m = 0; m < P::kTile.rowTiles; m++) {
#pragma unroll
    for (int slot = 0; slot < 2; slot++) {
      const float inverse = 1.0f / rowSum(sums.total[m][slot]);
      const int row = 16 * (P::kTile.rowTiles * warp() + m) + rowOf(slot);
      if (row >= tile.rows) continue;
      T* y = static_cast<T*>(a.y) + (tile.first + row) * a.yStride + (long long)head * headSize;
#pragma unroll
      for (int n = 0; n < P::kHeadTiles; n++) {
#pragma unroll
        for (int i = 2 * slot; i < 8; i += 4) {
          const float low = sums.o[m][n].v[i] * inverse, high = sums.o[m][n].v[i + 1] * inverse;
          *reinterpret_cast<unsigned*>(y + 16 * n + columnOf(i)) = roundPair<T>(addOf(low, 0), addOf(high, 0));
        }
      }
    }
  }
}

// ---- The kernel

template <class T, int headSize>
DEVICE void attendPrompt(const Attend& a) {
  using P = Prefill<headSize>;
  SHARED(typename P::Shared, shared);
  RowTile tile;
  if (!findTile(a.step, gridY() - 1 - blockY(), P::kTile.rows(), tile)) return;
  const int head = blockX(), kvHead = head / (a.heads / a.cache.kvHeads);
  const int positions = a.step.position[tile.first] + tile.rows;  // what the last row sees
  const long long toValues = a.cache.kvHeads * a.cache.blockBytes;
  const float scale = a.scale * 1.44269504088896340736f;  // 2^(scale log2(e) s) = e^(scale s)
  // Rows that the tile lacks see what nobody wrote, which is zeros; nobody reads them. Warps without rows only bring keys and values.
  const int firstRow = 16 * P::kTile.rowTiles * warp();

  typename P::Sums sums;
#pragma unroll
  for (int m = 0; m < P::kTile.rowTiles; m++) {
#pragma unroll
    for (int n = 0; n < P::kHeadTiles; n++) clear(sums.o[m][n]);
#pragma unroll
    for (int slot = 0; slot < 2; slot++) {
      sums.top[m][slot] = minusInfinity();
      sums.total[m][slot] = 0;
    }
  }

  typename P::Held held;
  const char* keys = warpKeys<headSize>(a, tile.sequence, kvHead, 0, positions);
  copyQueries<headSize>(a, tile, head, shared.q);
  fetch<headSize>(held, shared.keys, keys, positions);
  const char* next = warpKeys<headSize>(a, tile.sequence, kvHead, P::kTile.keys, positions - P::kTile.keys);
  finish<headSize>(held, shared.keys);
  syncBlock();
  for (int known = positions;; known -= P::kTile.keys) {
    fetch<headSize>(held, shared.values, keys + toValues, known);
    const int diagonal = known - tile.rows + firstRow;  // the key of the tile at which the warp's first row stands
    const bool any = firstRow < tile.rows && diagonal > -16 * P::kTile.rowTiles;
    Acc s[P::kTile.rowTiles][P::kKeyTiles];
    if (any) multiplyKeys<T, headSize>(shared, s);
    finish<headSize>(held, shared.values);
    syncBlock();  // the values are there, and nobody reads these keys any more
    const bool more = known > P::kTile.keys;
    if (more) {
      keys = next;
      fetch<headSize>(held, shared.keys, keys, known - P::kTile.keys);
      // A page's number is asked for one tile ahead, so that no copy waits for it.
      next = warpKeys<headSize>(a, tile.sequence, kvHead, positions - known + 2 * P::kTile.keys, known - 2 * P::kTile.keys);
    }
    if (any) {
#pragma unroll
      for (int m = 0; m < P::kTile.rowTiles; m++) weigh(s[m], sums.o[m], sums.top[m], sums.total[m], diagonal + 16 * m, scale);
      multiplyValues<T, headSize>(shared, s, sums.o);
    }
    if (!more) break;
    finish<headSize>(held, shared.keys);
    syncBlock();  // the next keys are there, and nobody reads these values any more
  }
  writeRows<T, headSize>(a, tile, head, sums);
}

#define EWE_ATTEND(headSize, T, type)                                                                                              \
  KERNEL(attend_prefill_d##headSize##_##type, Attend, attendTile(kPath, headSize).threads(), attendTile(kPath, headSize).blocks) { \
    attendPrompt<T, headSize>(args);                                                                                               \
  }
#define EWE_ATTEND_ALL(T, type) \
  EWE_ATTEND(16, T, type)       \
  EWE_ATTEND(32, T, type) EWE_ATTEND(64, T, type) EWE_ATTEND(80, T, type) EWE_ATTEND(96, T, type) EWE_ATTEND(128, T, type) EWE_ATTEND(256, T, type)

EWE_ATTEND_ALL(f16, f16)
#if EWE_PATH >= 800
EWE_ATTEND_ALL(bf16, bf16)
#endif

}  // namespace ewe::kernels

// Attention of generated rows: y = softmax(scale q K^T) V for one row of queries of each (row, head), over the positions 0 .. position of the row,
// from the paged cache. Shapes and layouts are those of attention.cu; y may have any stride.
//
// Every key and value is read once and used for one product (or a few, where query heads share a key-value head): bound by memory, so the products
// are plain fp32 arithmetic, which is also closer than 16-bit weights. A block takes 256 positions (a split: blockX) of one row (blockZ) and one
// key-value head with up to 6 of its query heads (blockY); splits that the row does not reach leave first. A warp takes 32 positions, in runs of 16
// (8 for 256 components): a piece of 16 bytes by each lane, so that a row of headSize components is headSize / 8 lanes and a load reads whole rows
// that lie together, 32 * 8 / headSize of them. Two runs are under way while a third is used; those of the values while the weights are made.
//   scores   each lane multiplies its piece; the sums over the lanes of a row go through shared memory, after which lane l has the score of position
//   l weights  2^(score - largest of the split): one number of each position, so nothing is rescaled within a split values   each lane adds up its 8
//   components over its positions; then over the positions that lanes share and the warps, in their order
// A row with one split writes its result. Else the split's sums, sum of weights and largest score go to scratch memory, and the block that comes
// last, by a counter, adds the splits up in their order; one split alone would come out with the same bits. It leaves the counter at zero for the
// next launch.
//
// Shared memory: partial scores of a run (rows of an odd number of floats: no bank conflicts), partial sums, and what the warps tell each other.
// Bytes: 4 headSize a position and key-value head; FLOPs: 4 headSize a position and head. All paths.
#include "attention_decode.plan.h"
#include "tile.cuh"

namespace ewe::kernels {

template <int headSize, int group>
struct Decode {
  static constexpr int kPieces = headSize / 8, kRun = attendRun(headSize);
  static constexpr int kRows = 32 / kPieces;            // positions of one load of a warp
  static constexpr int kLoads = divideUp(kRun, kRows);  // of a run
  static constexpr int kRuns = 32 / kRun;
  static constexpr int kStride = kPieces | 1;
  static_assert(kRuns % 2 == 0 && group * kPieces <= kAttendThreads);

  struct Shared {
    Floats4 q[group][2][kPieces];  // halves of pieces apart: no bank conflicts
    float scores[kAttendWarps][kRun * kStride];
    float values[kAttendWarps][32 * 8];
    float tops[kAttendWarps][group], totals[kAttendWarps][group];
    int last;
  };
  static_assert(sizeof(Shared) <= size_t(attendDecodeSharedBytes(headSize, group > 1)));

  struct Run {
    Words4 piece[kLoads];
  };
};

template <class T>
DEVICE void widen(const Words4& words, float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[2 * i] = lowOf<T>(words.w[i]);
    v[2 * i + 1] = highOf<T>(words.w[i]);
  }
}

// ---- Where a warp's positions lie

struct Block {
  int row, sequence, kvHead, firstHead, heads;  // heads: of the group that this block takes
  int position, first, splits;                  // of the row; of the split; of the row
};

// Where a lane's pieces of its warp's 32 positions begin, keys first: a page has 16 of them at least.
struct Places {
  const char* halves[2];
  int known;  // positions of the warp that the row sees
};

DEVICE Places placesOf(const Attend& a, const Block& b) {
  const int first = b.first + 32 * warp();
  const int* pages = a.step.pages + (long long)b.sequence * a.step.pagesStride;
  const char* from = static_cast<const char*>(a.cache.data) + 16 * lane();
  Places places = {{from, from}, b.position + 1 - first};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (16 * half >= places.known) break;
    const int position = first + 16 * half;
    const long long page = pages[position / a.cache.pageSize];
    places.halves[half] +=
        (page * 2 * a.cache.kvHeads + b.kvHead) * a.cache.blockBytes + (long long)(position % a.cache.pageSize) * a.cache.headSize * 2;
  }
  return places;
}

// A lane's row in each load of its warp: 32 for the lanes that a load leaves over.
template <int headSize, int group>
DEVICE int loadRow() {
  using D = Decode<headSize, group>;
  return lane() < D::kRows * D::kPieces ? lane() / D::kPieces : 32;
}

template <int headSize, int group>
DEVICE void fetch(typename Decode<headSize, group>::Run& to, const Places& places, long long offset, int run) {
  using D = Decode<headSize, group>;
  const char* from = places.halves[run * D::kRun / 16] + offset + run * D::kRun % 16 * headSize * 2;
#pragma unroll
  for (int i = 0; i < D::kLoads; i++) {
    const int row = i * D::kRows + loadRow<headSize, group>();
    to.piece[i] = Words4{};
    if (row < D::kRun && run * D::kRun + row < places.known)
      to.piece[i] = loadStreaming(reinterpret_cast<const Words4*>(from + i * D::kRows * headSize * 2));
  }
}

// ---- Scores: after all runs, lane l has that of position l

template <class T, int headSize, int group>
DEVICE void score(typename Decode<headSize, group>::Shared& shared, const typename Decode<headSize, group>::Run& keys, int heads, int run,
                  float (&scores)[group]) {
  using D = Decode<headSize, group>;
  float* mine = shared.scores[warp()];
#pragma unroll
  for (int g = 0; g < group; g++) {
    if (g >= heads) break;
    const Floats4 q[2] = {shared.q[g][0][lane() % D::kPieces], shared.q[g][1][lane() % D::kPieces]};
#pragma unroll
    for (int i = 0; i < D::kLoads; i++) {
      float k[8], sum = 0;
      widen<T>(keys.piece[i], k);
#pragma unroll
      for (int j = 0; j < 8; j++) sum = fmaOf(q[j / 4].v[j % 4], k[j], sum);
      const int row = i * D::kRows + loadRow<headSize, group>();
      if (row < D::kRun) mine[row * D::kStride + lane() % D::kPieces] = sum;
    }
    syncWarp();
    constexpr int kParts = 32 / D::kRun;  // lanes that share a position, and its pieces
    const float* from = mine + lane() % D::kRun * D::kStride;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < D::kPieces; j += kParts) {
      const int piece = j + lane() / D::kRun;
      if (D::kPieces % kParts == 0 || piece < D::kPieces) sum += from[piece];
    }
#pragma unroll
    for (int distance = D::kRun; distance < 32; distance *= 2) sum += shuffleXor(sum, distance);
    if (lane() / D::kRun == run) scores[g] = sum;
    syncWarp();
  }
}

template <class T, int headSize, int group>
DEVICE void accumulate(const typename Decode<headSize, group>::Run& values, const float (&weights)[group], int heads, int run,
                       float (&sums)[group][8]) {
  using D = Decode<headSize, group>;
#pragma unroll
  for (int i = 0; i < D::kLoads; i++) {
    float v[8];
    widen<T>(values.piece[i], v);
    const int position = run * D::kRun + i * D::kRows + loadRow<headSize, group>();
#pragma unroll
    for (int g = 0; g < group; g++) {
      if (g >= heads) break;
      const float weight = shuffle(weights[g], position & 31);  // a piece of no position is zero
#pragma unroll
      for (int j = 0; j < 8; j++) sums[g][j] = fmaOf(weight, v[j], sums[g][j]);
    }
  }
}

// ---- Results

// Partial results in scratch memory: [row][head][split], rows counted from promptRows.
struct Partials {
  float *sums, *totals, *tops;  // sums: [.., headSize]
};

DEVICE Partials partialsOf(const Attend& a) {
  const long long count = (long long)gridZ() * a.heads * gridX();
  float* sums = static_cast<float*>(a.scratch);
  return {sums, sums + count * a.cache.headSize, sums + count * (a.cache.headSize + 1)};
}
DEVICE long long partialAt(const Attend& a, int head) { return ((long long)blockZ() * a.heads + head) * gridX(); }

template <class T>
DEVICE void write(const Attend& a, const Block& b, int head, int component, float sum, float total) {
  static_cast<T*>(a.y)[b.row * a.yStride + (long long)head * a.cache.headSize + component] = round<T>(sum / total);
}

// Adds up the splits of a row, in their order.
template <class T>
DEVICE void combine(const Attend& a, const Block& b) {
  const Partials partials = partialsOf(a);
  const int headSize = a.cache.headSize;
  for (int i = thread(); i < b.heads * headSize; i += kAttendThreads) {
    const int head = b.firstHead + i / headSize, component = i % headSize;
    const long long at = partialAt(a, head);
    float top = partials.tops[at];
    for (int split = 1; split < b.splits; split++) top = maxOf(top, partials.tops[at + split]);
    float factor = exp2Of(partials.tops[at] - top);
    float total = factor * partials.totals[at], sum = factor * partials.sums[at * headSize + component];
    for (int split = 1; split < b.splits; split++) {
      factor = exp2Of(partials.tops[at + split] - top);
      total = fmaOf(factor, partials.totals[at + split], total);
      sum = fmaOf(factor, partials.sums[(at + split) * headSize + component], sum);
    }
    write<T>(a, b, head, component, sum, total);
  }
}

// ---- The kernel

template <class T, int headSize, int group>
DEVICE void attendGenerated(const Attend& a) {
  using D = Decode<headSize, group>;
  SHARED(typename D::Shared, shared);
  Block b;
  b.row = a.step.promptRows + blockZ();
  b.first = blockX() * kAttendSplit;
  if (a.step.live && b.row >= *a.step.live) return;
  b.position = a.step.position[b.row];
  if (b.first > b.position) return;
  b.splits = attendSplits(b.position + 1);
  b.sequence = a.step.sequence[b.row];
  if constexpr (group == 1) {
    b.kvHead = b.firstHead = blockY();
    b.heads = 1;
  } else {
    const int all = a.heads / a.cache.kvHeads, parts = divideUp(all, group), share = divideUp(all, parts), part = blockY() % parts;
    b.kvHead = blockY() / parts;
    b.firstHead = b.kvHead * all + part * share;
    b.heads = all - part * share < share ? all - part * share : share;
  }

  const Places places = placesOf(a, b);
  const long long toValues = a.cache.kvHeads * a.cache.blockBytes;
  typename D::Run runs[2];
  fetch<headSize, group>(runs[0], places, 0, 0);
  fetch<headSize, group>(runs[1], places, 0, 1);

  const float scale = a.scale * 1.44269504088896340736f;  // 2^(scale log2(e) s) = e^(scale s)
  if (thread() < b.heads * D::kPieces) {
    const Words4* from = static_cast<const Words4*>(a.q) + ((long long)b.row * a.heads + b.firstHead) * D::kPieces + thread();
    float q[8];
    widen<T>(load(from), q);
#pragma unroll
    for (int j = 0; j < 8; j++) shared.q[thread() / D::kPieces][j / 4][thread() % D::kPieces].v[j % 4] = q[j] * scale;
  }
  syncBlock();
  float scores[group] = {}, weights[group], sums[group][8];
#pragma unroll
  for (int run = 0; run < D::kRuns; run++) {
    score<T, headSize, group>(shared, runs[run % 2], b.heads, run, scores);
    const int next = run + 2;
    fetch<headSize, group>(runs[run % 2], places, next < D::kRuns ? 0 : toValues, next % D::kRuns);
  }

#pragma unroll
  for (int g = 0; g < group; g++) {
    if (g >= b.heads) break;
    if (lane() >= places.known) scores[g] = floatOf(0xFF800000u);
    const float top = warpMax(scores[g]);
    if (lane() == 0) shared.tops[warp()][g] = top;
  }
  syncBlock();
#pragma unroll
  for (int g = 0; g < group; g++) {
    if (g >= b.heads) break;
    float top = shared.tops[0][g];
#pragma unroll
    for (int w = 1; w < kAttendWarps; w++) top = maxOf(top, shared.tops[w][g]);
    weights[g] = exp2Of(scores[g] - top);
    const float total = warpSum(weights[g]);
    if (lane() == 0) shared.totals[warp()][g] = total;
#pragma unroll
    for (int j = 0; j < 8; j++) sums[g][j] = 0;
  }
#pragma unroll
  for (int run = 0; run < D::kRuns; run++) {
    accumulate<T, headSize, group>(runs[run % 2], weights, b.heads, run, sums);
    if (run + 2 < D::kRuns) fetch<headSize, group>(runs[run % 2], places, toValues, run + 2);
  }

  const Partials partials = partialsOf(a);
#pragma unroll
  for (int g = 0; g < group; g++) {
    if (g >= b.heads) break;
    if (g > 0) syncBlock();  // the sums of the head before are read
#pragma unroll
    for (int j = 0; j < 8; j++) shared.values[warp()][8 * lane() + j] = sums[g][j];
    syncBlock();
    if (thread() >= headSize) continue;
    float sum = 0, total = 0, top = shared.tops[0][g];
    for (int w = 0; w < kAttendWarps; w++) {
#pragma unroll
      for (int row = 0; row < D::kRows; row++) sum += shared.values[w][row * headSize + thread()];
      total += shared.totals[w][g];
      top = maxOf(top, shared.tops[w][g]);
    }
    if (b.splits == 1) {
      write<T>(a, b, b.firstHead + g, thread(), sum, total);
    } else {
      const long long at = partialAt(a, b.firstHead + g) + blockX();
      partials.sums[at * headSize + thread()] = sum;
      if (thread() == 0) {
        partials.totals[at] = total;
        partials.tops[at] = top;
      }
    }
  }
  if (b.splits == 1) return;

  fence();
  syncBlock();  // all that this block wrote is seen by whoever sees its count
  int* counter = a.counters + blockZ() * gridY() + blockY();
  if (thread() == 0) shared.last = atomicAdd(counter, 1) == b.splits - 1;
  syncBlock();
  if (!shared.last) return;
  fence();
  if (thread() == 0) atomicAdd(counter, -b.splits);  // 0 again. Atomic: the others' own counts come behind their fences
  combine<T>(a, b);
}

#define EWE_ATTEND(headSize, T, type)                                                                                                                \
  KERNEL(attend_decode_d##headSize##_##type, Attend, kAttendThreads, attendDecodeBlocks(headSize, false)) { attendGenerated<T, headSize, 1>(args); } \
  KERNEL(attend_decode_grouped_d##headSize##_##type, Attend, kAttendThreads, attendDecodeBlocks(headSize, true)) {                                   \
    attendGenerated<T, headSize, kAttendGroup>(args);                                                                                                \
  }
#define EWE_ATTEND_ALL(T, type) \
  EWE_ATTEND(16, T, type)       \
  EWE_ATTEND(32, T, type) EWE_ATTEND(64, T, type) EWE_ATTEND(80, T, type) EWE_ATTEND(96, T, type) EWE_ATTEND(128, T, type) EWE_ATTEND(256, T, type)

EWE_ATTEND_ALL(f16, f16)
#if EWE_PATH >= 800
EWE_ATTEND_ALL(bf16, bf16)
#endif

}  // namespace ewe::kernels

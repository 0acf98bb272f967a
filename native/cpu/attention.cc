#include "cpu/cache.h"

namespace ewe::EWE_CPU {

namespace {

// Positions between two looks at the largest score. Splits begin at multiples of it, so they are the same for every query.
constexpr int kSplit = 256;
constexpr int kQueries = 24;  // of one tile: they share what they read of the cache

// A query is one row's one head; the heads that share a key-value head lie beside each other in a tile.
struct QueryTile {
  int sequence, kvHead, first, count;  // queries of the sequence
};

// The memory of a thread: queries, scores (and, in their place, weights), sums, and one half-used pair of values.
struct Memory {
  char* q;
  float *scores, *sums, *lastPair;
  static size_t bytes(int headSize) {
    return size_t(kQueries) * (roundUp(headSize, kPanel) * 8 + kSplit * 4) + size_t(roundUp(headSize, kPanel)) * 4;
  }
  Memory(void* scratch, int headSize) {
    const long padded = roundUp(headSize, kPanel);
    q = static_cast<char*>(scratch);
    scores = reinterpret_cast<float*>(q + kQueries * padded * 4);
    sums = scores + kQueries * kSplit;
    lastPair = sums + kQueries * padded;
  }
};

// What one query has seen so far. Only its own positions ever enter, in their order.
struct Running {
  float largest, total;
};

// Turns the `count` scores of a split into weights e^(scale (s - largest)), in the format of the product with the values, and rescales the sums.
// The rest up to `padded` becomes zero weight.
EWE_INLINE void weigh(float* scores, int count, int padded, float scale, Running& running, float* sums, int components, Format format, DType type) {
  Vector largest = set(running.largest);
  for (int i = 0; i < count; i += 16) {
    const Vector s = load(scores + i);
    largest = max(count - i >= 16 ? s : select(firstLanes(count - i), s, largest), largest);
  }
  const float top = maximum(largest);
  Vector total = zero();
  for (int i = 0; i < padded; i += 16) {
    Vector p = zero();
    if (i < count) p = select(firstLanes(count - i), exp((load(scores + i) - set(top)) * set(scale)), zero());
    if (type == DType::bfloat16) {
      const Words h = roundBfloat16(p);
      p = floats(h << 16);
      if (format == Format::bfloat16) storeHalves(reinterpret_cast<uint16_t*>(scores) + i, h);
    }
    if (format != Format::bfloat16) store(scores + i, p);
    total = total + p;
  }
  float keep[16];
  store(keep, exp(set((running.largest - top) * scale)));
  running = {top, running.total * keep[0] + sum(total)};
  for (int i = 0; i < components; i += 16) store(sums + i, load(sums + i) * set(keep[0]));
}

template <class KeyKind>
class Attention {
 public:
  using Weight = typename KeyKind::Weight;
  using Row = typename KeyKind::Row;

  Attention(const Attend& a) : a_(a), blocks_{a.cache}, d_(a.cache.headSize), padded_(int(roundUp(d_, kPanel))), inner_(int(paddedK(d_, a.type))) {
    group_ = a.heads / a.cache.kvHeads;
  }

  void run(const QueryTile& t, void* scratch) const {
    const Memory m(scratch, d_);
    const int firstRow = a_.step.start[t.sequence];
    const int* pages = a_.step.pages + (long long)t.sequence * a_.step.pagesStride;
    int positions[kQueries];
    Running running[kQueries];
    Row* q = reinterpret_cast<Row*>(m.q);
    for (int i = 0; i < t.count; i++) {
      const int row = firstRow + (t.first + i) / group_, head = t.kvHead * group_ + (t.first + i) % group_;
      positions[i] = a_.step.position[row];
      running[i] = {-__builtin_inff(), 0};
      readQuery((long long)row * a_.heads * d_ + (long long)head * d_, q + i * inner_);
    }
    memset(m.sums, 0, size_t(t.count) * padded_ * 4);

    const int last = positions[t.count - 1];
    for (int split = 0; split <= last; split += kSplit) {
      int counts[kQueries] = {}, first = 0;
      for (int i = 0; i < t.count; i++) {
        const int count = positions[i] + 1 - split;
        counts[i] = count < 0 ? 0 : count > kSplit ? kSplit : count;
        if (counts[i] == 0) first = i + 1;
      }
      const int longest = counts[t.count - 1];
      scoreSplit(pages, t.kvHead, split, longest, last, t.count - first, q + first * inner_, m.scores + first * kSplit);
      for (int i = first; i < t.count; i++) {
        weigh(m.scores + i * kSplit, counts[i], int(roundUp(counts[i], 16)), a_.scale, running[i], m.sums + i * padded_, padded_, formatOf(a_.type),
              a_.type);
      }
      for (int i = first; i < t.count; i += kTileRows) {
        const int n = t.count - i < kTileRows ? t.count - i : kTileRows;
        addValues(pages, t.kvHead, split, n, counts + i, m, i);
      }
    }

    for (int i = 0; i < t.count; i++) {
      const int row = firstRow + (t.first + i) / group_, head = t.kvHead * group_ + (t.first + i) % group_;
      writeResult(m.sums + i * padded_, running[i].total, row * a_.yStride + (long long)head * d_);
    }
  }

 private:
  // Runs of positions that lie in one page: f(page, first position in the page, count, position in the split).
  template <class F>
  void overPages(const int* pages, int from, int to, F f) const {
    for (int position = from; position < to;) {
      const int inPage = position % a_.cache.pageSize, left = a_.cache.pageSize - inPage;
      const int count = to - position < left ? to - position : left;
      f(pages[position / a_.cache.pageSize], inPage, count, position - from);
      position += count;
    }
  }

  void readQuery(long long at, Row* out) const {
    if constexpr (sizeof(Row) == 4) {
      for (int j = 0; j < d_; j++)
        out[j] = a_.type == DType::float32 ? static_cast<const float*>(a_.q)[at + j] : fromBfloat16(static_cast<const uint16_t*>(a_.q)[at + j]);
    } else {
      memcpy(out, static_cast<const uint16_t*>(a_.q) + at, size_t(d_) * 2);
    }
    if (inner_ > d_) out[d_] = 0;
  }

  // A head has a few kilobytes in a page, its keys in several rows side by side: too short for what the processor foresees by itself. So the keys of
  // the next page, and the values of this one, are asked for while the keys of this one are multiplied. Into the second cache: what the first one can
  // wait for at a time is the very bound on reading so (bench/README.md has figures).
  void ask(const char* block, int inPage) const {
    const long position = long(padded_) * long(sizeof(Weight)), end = a_.cache.pageSize * position;
    for (long at = inPage * position; at < end; at += 64) __builtin_prefetch(block + at, 0, 1);
  }

  // Scores of n queries for positions split .. split + count - 1, and some behind them that nobody uses.
  void scoreSplit(const int* pages, int kvHead, int split, int count, int last, int n, const Row* q, float* scores) const {
    overPages(pages, split, split + count, [&](int page, int inPage, int run, int at) {
      const int next = split + at + run;
      if (next <= last) ask(blocks_.keys(pages[next / a_.cache.pageSize], kvHead), next % a_.cache.pageSize);
      ask(blocks_.values(page, kvHead), inPage);
      const Weight* keys = reinterpret_cast<const Weight*>(blocks_.keys(page, kvHead)) + (long)(inPage / kPanel) * inner_ * kPanel;
      product<KeyKind>(n, int(roundUp(run, kPanel) / kPanel), inner_, q, inner_, {keys, (long)inner_ * kPanel, KeyKind::kWidth}, scores + at, kSplit,
                       false);
    });
  }

  // Adds the weighted values to n queries from `query` on: the positions that all have in common, then what each has beyond. What lies in the cache
  // behind a query's own position is never multiplied, not even by zero: it may be another's, or no number at all.
  void addValues(const int* pages, int kvHead, int split, int n, const int* counts, const Memory& m, int query) const {
    const int common = counts[0] / KeyKind::kStep * KeyKind::kStep;
    addRun(pages, kvHead, split, 0, common, n, m, query);
    for (int i = 0; i < n; i++) {
      const int whole = counts[i] / KeyKind::kStep * KeyKind::kStep;
      addRun(pages, kvHead, split, common, whole, 1, m, query + i);
      if (whole < counts[i]) addLastOfPair(pages, kvHead, split, whole, m, query + i);
    }
  }

  const Row* weights(const Memory& m, int query) const { return reinterpret_cast<const Row*>(m.scores + query * kSplit); }
  static constexpr long kWeightStride = kSplit * 4 / sizeof(Row);

  // Positions [from, to) of the split, whole pairs.
  void addRun(const int* pages, int kvHead, int split, int from, int to, int n, const Memory& m, int query) const {
    overPages(pages, split + from, split + to, [&](int page, int inPage, int run, int at) {
      const Weight* values = reinterpret_cast<const Weight*>(blocks_.values(page, kvHead)) + (long)inPage * padded_;
      product<KeyKind>(n, padded_ / kPanel, run, weights(m, query) + from + at, kWeightStride,
                       {values, KeyKind::kWidth, (long)padded_ * KeyKind::kStep}, m.sums + query * padded_, padded_, true);
    });
  }

  // The last position of a query when it is the first half of a pair.
  void addLastOfPair(const int* pages, int kvHead, int split, int at, const Memory& m, int query) const {
    const int position = split + at;
    const uint16_t* values = reinterpret_cast<const uint16_t*>(blocks_.values(pages[position / a_.cache.pageSize], kvHead)) +
                             (long)(position % a_.cache.pageSize) * padded_;
    uint16_t* pair = reinterpret_cast<uint16_t*>(m.lastPair);
    for (int i = 0; i < padded_; i++) {
      pair[2 * i] = values[2 * i];
      pair[2 * i + 1] = 0;
    }
    product<KeyKind>(1, padded_ / kPanel, 2, weights(m, query) + at, kWeightStride, {reinterpret_cast<const Weight*>(pair), KeyKind::kWidth, 0},
                     m.sums + query * padded_, padded_, true);
  }

  void writeResult(const float* sums, float total, long long at) const {
    for (int i = 0; i < d_; i += 16) {
      const Vector y = load(sums + i) / set(total);
      const int left = d_ - i < 16 ? d_ - i : 16;
      if (a_.type == DType::float32) {
        storeFirst(static_cast<float*>(a_.y) + at + i, y, left);
      } else {
        uint16_t h[16];
        storeHalves(h, roundBfloat16(y));
        memcpy(static_cast<uint16_t*>(a_.y) + at + i, h, size_t(left) * 2);
      }
    }
  }

  const Attend& a_;
  KeyValueBlocks blocks_;
  int d_, padded_, inner_, group_;
};

}  // namespace

size_t attentionScratch(int headSize) { return Memory::bytes(headSize); }

Status Cpu::attend(const Attend& a) {
  EWE_TRY(checkCache(a.cache, a.type, a.step.rows));
  const int group = a.heads / a.cache.kvHeads;
  int* tilesBefore = indexScratch();
  tilesBefore[0] = 0;
  for (int s = 0; s < a.step.sequences; s++)
    tilesBefore[s + 1] = tilesBefore[s] + int(roundUp((a.step.start[s + 1] - a.step.start[s]) * group, kQueries) / kQueries);
  auto loop = [&](const auto& attention) {
    each((long)tilesBefore[a.step.sequences] * a.cache.kvHeads, 1, [&](long begin, long end, int thread) {
      int s = 0;
      for (long item = begin; item < end; item++) {
        while (item >= (long)tilesBefore[s + 1] * a.cache.kvHeads) s++;
        // All tiles of a head after each other: they read the same keys.
        const int tiles = tilesBefore[s + 1] - tilesBefore[s];
        const int within = int(item - (long)tilesBefore[s] * a.cache.kvHeads);
        const int first = within % tiles * kQueries, all = (a.step.start[s + 1] - a.step.start[s]) * group;
        attention.run({s, within / tiles, first, all - first < kQueries ? all - first : kQueries}, threadScratch(thread));
      }
    });
  };
  if (a.type == DType::float32) {
    loop(Attention<Float32Panels>(a));
  } else {
    loop(Attention<Bfloat16Panels>(a));
  }
  return {};
}

}  // namespace ewe::EWE_CPU

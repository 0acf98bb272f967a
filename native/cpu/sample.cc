// Cpu::sample and Cpu::logProbs: the steps of ops/draw.h over one row, 16 ids at a time, rows over threads.
//
// A row's scores are written once and read by every later pass; masses are computed anew in each pass, which costs less than moving 8 bytes per id.
// Vocabularies are padded to full vectors with -inf, which no score is: it is below every threshold and has mass 0.
#include "cpu/backend.h"
#include "cpu/masses.h"

namespace ewe::EWE_CPU {

// Also seen by the tests, which compare every set with the scalar definition.
void masses(const float* scores, long count, float best, Mass* out);

namespace {

constexpr int kBlock = 256;  // ids whose masses the draw sums before it looks at each

// ---- Scores

EWE_INLINE Vector tame(Vector x) { return min(max(x, set(-draw::kLargest)), set(draw::kLargest)) + zero(); }

EWE_INLINE float largest(const float* scores, long count) {
  Vector best = set(kNothing);
  for (long i = 0; i < count; i += 16) best = max(load(scores + i), best);
  return maximum(best);
}

// The scores of a row, padded, and the largest of them; nan tells whether there is a NaN among the logits.
float writeScores(const float* logits, int vocab, float temperature, float* scores, bool* nan) {
  const bool divide = temperature > 0 && temperature != 1;
  const Vector divisor = set(temperature);
  Vector best = set(kNothing);
  Mask strange = {};
  for (long i = 0; i < vocab; i += 16) {
    const bool whole = i + 16 <= vocab;
    Vector x = whole ? load(logits + i) : loadFirst(logits + i, int(vocab - i));
    EWE_PARTS strange.part[i] |= x.part[i] != x.part[i];
    if (divide) x = x / divisor;
    x = tame(x);
    if (!whole) x = select(firstLanes(int(vocab - i)), x, set(kNothing));
    store(scores + i, x);
    best = max(x, best);
  }
  int32_t lanes[16], any = 0;
  memcpy(lanes, &strange, sizeof lanes);
  for (int i = 0; i < 16; i++) any |= lanes[i];
  *nan = any != 0;
  return maximum(best);
}

// The mass of the scores that are at least cut, of those masses that are at least floor.
Mass massFrom(const float* scores, long count, float best, float cut, Mass floor) {
  Masses sum = {};
  for (long i = 0; i < count; i += 16) {
    const Vector s = load(scores + i), cuts = set(cut);
    if (above(cuts, s) == 0xFFFF) continue;
    Masses m = massesOf(select(s < cuts, set(draw::kLowest), s - set(best)));
    for (int j = 0; j < 2 * kParts; j++) sum.part[j] += m.part[j] & (m.part[j] >= int64_t(floor));
  }
  return total(sum);
}

int firstAt(const float* scores, float score) {  // the lowest id whose score is at least this one, which some id has
  long i = 0;
  while (above(set(score), load(scores + i)) == 0xFFFF) i += 16;
  while (scores[i] < score) i++;
  return int(i);
}

// ---- The border of top-k and top-p

// Of ids by falling score, weighed by mass (or one each, for counts): the score at which the running weight reaches `need`.
struct Border {
  float score;
  Mass above;  // weight of all larger scores, less than need
  long equal;  // ids with this score
};

float middle(const float* scores, long count) {  // of nine
  float s[9];
  for (int i = 0; i < 9; i++) {
    const float x = scores[(2 * i + 1) * count / 18];
    int at = i;
    for (; at > 0 && s[at - 1] > x; at--) s[at] = s[at - 1];
    s[at] = x;
  }
  return s[4];
}

template <class Lanes>
long compact(const float* from, long count, float* to, Lanes lanes) {
  long kept = 0;
  for (long i = 0; i < count; i += 16) {
    const Vector s = load(from + i);
    const unsigned real = count - i < 16 ? (1u << (count - i)) - 1 : 0xFFFF, chosen = lanes(s) & real;
    if (chosen) kept += pack(to + kept, s, chosen);
  }
  pad(to, kept);
  return kept;
}

// Quickselect: each round weighs what lies above a pivot and keeps one side. The scores are lost; need is at most the weight of all of them, so there
// is always something left. The pivots decide the time alone, never the result.
Border border(float* scores, long count, bool byMass, float best, Mass need) {
  for (Mass reached = 0;;) {
    const float pivot = middle(scores, count);
    const Vector pivots = set(pivot);
    Masses sum = {};
    long over = 0, equal = 0;
    for (long i = 0; i < count; i += 16) {
      const Vector s = load(scores + i);
      const unsigned larger = above(s, pivots);
      over += __builtin_popcount(larger);
      equal += __builtin_popcount(0xFFFF & ~larger & ~above(pivots, s));
      if (byMass && larger) add(sum, massesOf(select(pivots < s, s - set(best), set(draw::kLowest))));
    }
    const Mass more = reached + (byMass ? total(sum) : Mass(over)), each = byMass ? draw::mass(pivot, best) : 1;
    if (more >= need) {
      count = compact(scores, count, scores, [pivots](Vector s) { return above(s, pivots); });
    } else if (more + each * Mass(equal) >= need) {
      return {pivot, more, equal};
    } else {
      reached = more + each * Mass(equal);
      count = compact(scores, count, scores, [pivots](Vector s) { return above(pivots, s); });
    }
  }
}

// ---- One row

struct Row {
  const float* logits;
  int vocab;
  float *scores, *spare;  // each padded(vocab) + 16
  float best;             // of the raw logits
  double logTotal;

  // Leaves the scores of the raw logits and returns their mass.
  Mass readRaw() {
    bool nan;
    best = writeScores(logits, vocab, 1, scores, &nan);
    const Mass mass = massFrom(scores, vocab, best, -draw::kLargest, 0);
    logTotal = draw::logTotal(mass, nan);
    return mass;
  }
  float logProb(int id) const { return draw::logProb(logits[id], best, logTotal); }

  // The `count` best of the raw scores, which must be in place: an ordered list that few ids enter.
  void top(int count, int* ids, float* values) const {
    int filled = 0;
    float least = kNothing;
    for (long i = 0; i < vocab && count > 0; i += 16) {
      for (unsigned lanes = above(load(scores + i), set(least)); lanes; lanes &= lanes - 1) {
        const int id = int(i) + __builtin_ctz(lanes);
        if (!(scores[id] > least)) continue;
        int at = filled < count ? filled++ : count - 1;
        for (; at > 0 && values[at - 1] < scores[id]; at--) {
          values[at] = values[at - 1];
          ids[at] = ids[at - 1];
        }
        values[at] = scores[id];
        ids[at] = id;
        if (filled == count) least = values[count - 1];
      }
    }
    for (int i = 0; i < count; i++) values[i] = logProb(ids[i]);
  }

  int token(const Sampling& how, Mass rawMass) {
    float highest = best;
    const bool raw = how.repetitionPenalty == 1 && how.adjusted == 0 && (how.temperature == 0 || how.temperature == 1);
    if (!raw) {
      bool nan;
      highest = writeScores(logits, vocab, how.temperature, scores, &nan);
      if (how.repetitionPenalty != 1) {
        for (int i = 0; i < how.historyLength; i++) {
          const int id = how.history[i];
          scores[id] = draw::score(logits[id], true, how.repetitionPenalty, how.temperature);
        }
      }
      for (int i = 0; i < how.adjusted; i++) {
        const int id = how.adjustedId[i];
        scores[id] = draw::score(draw::sum(logits[id], how.adjustment[i]), repeats(how, id), how.repetitionPenalty, how.temperature);
      }
      if (how.repetitionPenalty != 1 || how.adjusted > 0) highest = largest(scores, vocab);
    }
    if (how.temperature == 0) return firstAt(scores, highest);

    float cut = -draw::kLargest;
    if (how.topK > 0 && how.topK < vocab) {
      memcpy(spare, scores, size_t(padded(vocab)) * sizeof(float));
      cut = border(spare, vocab, false, 0, Mass(how.topK)).score;
    }
    Mass kept = raw && how.topK == 0 ? rawMass : massFrom(scores, vocab, highest, cut, 0);
    if (how.topP < 1) kept = keepNucleus(draw::nucleus(how.topP, kept), highest, &cut);
    const Mass floor = draw::floorOf(how.minP);
    if (floor > 0) kept = massFrom(scores, vocab, highest, cut, floor);
    return pick(draw::place(draw::random(how.seed, how.sample, how.position), kept), highest, cut, floor);
  }

 private:
  static bool repeats(const Sampling& how, int id) {
    for (int i = 0; how.repetitionPenalty != 1 && i < how.historyLength; i++) {
      if (how.history[i] == id) return true;
    }
    return false;
  }

  // Raises the cut to the border of top-p, takes the ties that are not needed off the row, and returns the mass that stays.
  Mass keepNucleus(Mass need, float highest, float* cut) {
    const Vector cuts = set(*cut);
    const long count = compact(scores, vocab, spare, [cuts](Vector s) { return ~above(cuts, s); });
    const Border b = border(spare, count, true, highest, need);
    const Mass each = draw::mass(b.score, highest);
    const long wanted = long((need - b.above + each - 1) / each);
    *cut = b.score;
    if (wanted < b.equal) {
      long seen = 0;
      for (int id = 0; id < vocab; id++) {
        if (scores[id] == b.score && seen++ >= wanted) scores[id] = kNothing;
      }
    }
    return b.above + each * Mass(wanted);
  }

  int pick(Mass place, float highest, float cut, Mass floor) const {
    for (long begin = 0;; begin += kBlock) {
      const long count = vocab - begin < kBlock ? vocab - begin : kBlock;
      const Mass block = massFrom(scores + begin, count, highest, cut, floor);
      if (place >= block) {  // never in the last block: place is less than the mass of the row
        place -= block;
        continue;
      }
      Mass each[kBlock];
      masses(scores + begin, padded(count), highest, each);
      for (long i = 0;; i++) {
        if (scores[begin + i] < cut || each[i] < floor) continue;
        if (place < each[i]) return int(begin + i);
        place -= each[i];
      }
    }
  }
};

Status check(const Sampling& how, const Sample& s, int row) {
  // Written so that a NaN fails.
  if (!(how.temperature >= 0 && how.temperature <= draw::kLargest && how.topP > 0 && how.topP <= 1 && how.minP >= 0 && how.minP <= 1 &&
        how.repetitionPenalty > 0 && how.repetitionPenalty <= draw::kLargest && how.topK >= 0 && how.adjusted >= 0))
    return Status::fail(Kind::internal, "sample: row %d has temperature %g, topP %g, minP %g, repetitionPenalty %g, topK %d", row,
                        double(how.temperature), double(how.topP), double(how.minP), double(how.repetitionPenalty), how.topK);
  if (how.top < 0 || how.top > s.topStride || how.top > s.vocab)
    return Status::fail(Kind::internal, "sample: row %d wants the best %d of %d ids in a list of %d", row, how.top, s.vocab, s.topStride);
  for (int i = 0; how.repetitionPenalty != 1 && i < how.historyLength; i++) {
    if (how.history[i] < 0 || how.history[i] >= s.vocab)
      return Status::fail(Kind::internal, "sample: row %d has id %d in its history, vocabulary %d", row, how.history[i], s.vocab);
  }
  for (int i = 0; i < how.adjusted; i++) {
    const int id = how.adjustedId[i];
    if (id < 0 || id >= s.vocab || (i > 0 && id <= how.adjustedId[i - 1]) ||
        !(how.adjustment[i] >= -draw::kLargest && how.adjustment[i] <= draw::kLargest))
      return Status::fail(Kind::internal, "sample: row %d adds %g to id %d, adjustment %d, vocabulary %d", row, double(how.adjustment[i]), id, i,
                          s.vocab);
  }
  return {};
}

Status checkVocab(const char* op, int vocab, int reserved) {
  const int most = reserved < draw::kMaxVocab ? reserved : draw::kMaxVocab;
  if (vocab >= 1 && vocab <= most) return {};
  return Status::fail(Kind::internal, "%s: vocabulary %d is outside 1 to %d", op, vocab, most);
}

Row rowIn(void* scratch, const float* logits, int vocab) {
  float* scores = static_cast<float*>(scratch);
  return {logits, vocab, scores, scores + padded(vocab) + 16, 0, 0};
}

}  // namespace

void masses(const float* scores, long count, float best, Mass* out) {
  for (long i = 0; i < count; i += 16) {
    const Masses m = massesOf(load(scores + i) - set(best));
    memcpy(out + i, &m, sizeof m);
  }
}

Status Cpu::sample(const Sample& s) {
  EWE_TRY(checkVocab("sample", s.vocab, limits().vocab));
  for (int row = 0; row < s.rows; row++) EWE_TRY(check(s.sampling[row], s, row));
  each(s.rows, 1, [&](long begin, long end, int thread) {
    for (long r = begin; r < end; r++) {
      Row row = rowIn(threadScratch(thread), s.logits + r * s.stride, s.vocab);
      const Sampling& how = s.sampling[r];
      const Mass mass = row.readRaw();
      row.top(how.top, s.topToken + r * s.topStride, s.topLogprob + r * s.topStride);
      s.token[r] = row.token(how, mass);
      s.logprob[r] = row.logProb(s.token[r]);
    }
  });
  return {};
}

Status Cpu::logProbs(const LogProbs& l) {
  EWE_TRY(checkVocab("logProbs", l.vocab, limits().vocab));
  if (l.top < 0 || l.top > l.vocab) return Status::fail(Kind::internal, "logProbs: the best %d of %d ids", l.top, l.vocab);
  for (int row = 0; row < l.rows; row++) {
    if (l.target[row] >= l.vocab) return Status::fail(Kind::internal, "logProbs: row %d wants id %d, vocabulary %d", row, l.target[row], l.vocab);
  }
  each(l.rows, 1, [&](long begin, long end, int thread) {
    for (long r = begin; r < end; r++) {
      Row row = rowIn(threadScratch(thread), l.logits + r * l.stride, l.vocab);
      row.readRaw();
      row.top(l.top, l.topToken + r * l.top, l.topLogprob + r * l.top);
      if (l.target[r] >= 0) l.logprob[r] = row.logProb(l.target[r]);
    }
  });
  return {};
}

}  // namespace ewe::EWE_CPU

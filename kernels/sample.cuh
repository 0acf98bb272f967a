// What the kernels of sample.cu are made of: passes over a row of logits, sums over its ids in their order, and the search of a border by radix. All
// sums are of integers, so how a row is cut among threads changes no bit. Every function here is called by all threads of a block, with the same
// arguments but for `mine` and what names one thread's own.
#pragma once
#include "ops/draw.h"
#include "sample.plan.h"
#include "seam.cuh"

namespace ewe::kernels {

using draw::Mass;

constexpr int kBinBits = 10;
constexpr unsigned kMinusInfinity = 0xFF800000u;

struct Weight {
  Mass mass;
  unsigned count;
};
struct Spot {
  Weight before;
  int bin;
  unsigned count;  // of the bin
};

struct SampleShared {
  // A histogram. Masses as two words each, so that 32-bit atomics, which are fast in shared memory, add them: the low word's carry goes to the high
  // one.
  unsigned count[kSampleBins], low[kSampleBins], high[kSampleBins];
  float list[kSampleListed];
  int topToken[kSampleTop];
  float topScore[kSampleTop];
  Weight warps[32];  // of a scan
  Mass parts[32];    // masses of each warp's part of the row
  Mass sums[32];     // by warp: raw masses, then ids with a border's key
  float raw[32], scaled[32];
  Spot spot;
  double logTotal;  // with `bestRaw` what the log-probabilities of a row need
  float bestRaw, bestScaled;
  unsigned long long random;
  unsigned listed, lowest;
  unsigned nan, strange;  // whether a logit is none, whether an id of the history is none
  int chosen;
  int ids;                // of each warp's part of the row
  const Sampling* how;    // of the row
  unsigned leastKey;      // of the smallest number that is added to a logit, of 0 at most
  unsigned adjusted[32];  // a bit for the last ten bits of each id whose logit is adjusted: most others are told apart by it
  unsigned repeated[1];   // a bit for each id of the history; the launch asks for as many words as the vocabulary needs
};
static_assert(sizeof(SampleShared) == kSampleShared && kSampleBins == 1 << kBinBits);

// ---- A row and the passes over it

struct Row {
  const float* logits;
  bool penalised;          // the ids of SampleShared::repeated are
  float penalty, divisor;  // divisor 0: none
  bool adjusted;           // some logits are, as SampleShared::how says
  int vocab, lead;         // lead: numbers between the 16-byte boundary before the row and its beginning
};

DEVICE Row rowOf(const float* logits, int vocab) {
  return {logits, false, 1, 0, false, vocab, int(reinterpret_cast<unsigned long long>(logits) / 4 % 4)};
}
// By bisection: few ids come here.
DEVICE float adjustedLogit(const Sampling& how, int id, float logit) {
  int first = 0, end = how.adjusted;
  while (first < end) {
    const int middle = (first + end) / 2;
    if (how.adjustedId[middle] < id) {
      first = middle + 1;
    } else {
      end = middle;
    }
  }
  return first < how.adjusted && how.adjustedId[first] == id ? draw::sum(logit, how.adjustment[first]) : logit;
}
DEVICE float scoreOf(const SampleShared& s, const Row& r, int id, float logit) {
  if (r.adjusted && (s.adjusted[id >> 5 & 31] >> (id & 31) & 1)) logit = adjustedLogit(*s.how, id, logit);
  return draw::score(logit, r.penalised && (s.repeated[id >> 5] >> (id & 31) & 1), r.penalty, r.divisor);
}

DEVICE float scoreOfKey(unsigned key) { return floatOf(key & 0x80000000u ? key ^ 0x80000000u : ~key); }

// Ids with logits below this have smaller keys. Those above may have.
DEVICE float barOf(const Row& r, unsigned key) {
  if (key <= draw::key(-draw::kLargest) || (r.penalised && r.penalty < 1) || r.adjusted) return floatOf(kMinusInfinity);
  const float score = scoreOfKey(key);
  if (r.divisor == 0) return score;
  if (maxOf(score, -score) < 1e-36f) return floatOf(kMinusInfinity);  // quotients near it may be rounded by more than 2^-24 of themselves
  const float logit = score * r.divisor;                              // rounded, as the quotient will be: so stay well below
  return logit - maxOf(logit, -logit) * 0x1p-20f - 1e-37f;            // where that is infinite or NaN, nothing is below
}

// Each warp has a part of the row, of whole 16-byte groups; the first may begin before the row.
struct Part {
  int begin, end;  // ids
};
DEVICE int idsOfWarp(const Row& r) {
  const int groups = (r.vocab + r.lead + 3) / 4, warps = threads() / 32;
  return (groups + warps - 1) / warps * 4;
}
DEVICE Part partOf(const SampleShared& s, const Row& r, int warp) {
  const int begin = warp * s.ids - r.lead, end = begin + s.ids;
  return {begin, end < r.vocab ? end : r.vocab};
}
// Four logits from id on; -inf for ids that are not between 0 and end.
DEVICE Floats4 loadGroup(const Row& r, int id, int end) {
  const float none = floatOf(kMinusInfinity);
  Floats4 x = {{none, none, none, none}};
  if (id >= 0 && id + 4 <= end) return load(reinterpret_cast<const Floats4*>(r.logits + id));
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (id + i >= 0 && id + i < end) x.v[i] = r.logits[id + i];
  }
  return x;
}
// visit(id, logit, real) for the ids of this warp, 128 at a time by all its lanes; those that are not real are none, and their logit is -inf.
template <int atOnce, class Visit>
DEVICE void eachLogit(const SampleShared& s, const Row& r, Visit visit) {
  const Part part = partOf(s, r, warp());
  Floats4 x = loadGroup(r, part.begin + 4 * lane(), part.end);
  for (int first = part.begin; first < part.end; first += 128) {
    const int id = first + 4 * lane();
    const Floats4 next = loadGroup(r, id + 128, part.end);
#pragma unroll atOnce
    for (int i = 0; i < 4; i++) {
      visit(id + i, x.v[0], id + i >= 0 && id + i < part.end);
      x = {{x.v[1], x.v[2], x.v[3], 0}};
    }
    x = next;
  }
}
// The same, but 128 ids of which none has a key from `low` up may be left out. Scores rise with the logits and a penalty of 1 or more lowers them, so
// this is seen by the logits, with no division: most of a row is passed over at a few instructions for four ids.
template <class Visit>
DEVICE void eachFrom(const SampleShared& s, const Row& r, unsigned low, Visit visit) {
  const Part part = partOf(s, r, warp());
  const float bar = barOf(r, low);
  Floats4 x = loadGroup(r, part.begin + 4 * lane(), part.end);
  for (int first = part.begin; first < part.end; first += 128) {
    const int id = first + 4 * lane();
    const Floats4 next = loadGroup(r, id + 128, part.end);
    const bool below = x.v[0] < bar && x.v[1] < bar && x.v[2] < bar && x.v[3] < bar;  // a NaN is not
    if (ballot(!below)) {
#pragma unroll 1
      for (int i = 0; i < 4; i++) {
        visit(id + i, x.v[0], id + i >= 0 && id + i < part.end);
        x = {{x.v[1], x.v[2], x.v[3], 0}};
      }
    }
    x = next;
  }
}

// ---- Sums

DEVICE Weight plus(Weight a, Weight b) { return {a.mass + b.mass, a.count + b.count}; }
DEVICE Mass sumOfLanes(Mass m) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) m += shuffleXor(m, mask);
  return m;
}
DEVICE Mass sumOfParts(const Mass* parts) { return sumOfLanes(lane() < threads() / 32 ? parts[lane()] : 0); }
// Of what the threads before this one have. Ends with reads of s.warps: a barrier must come before the next.
DEVICE Weight sumBefore(SampleShared& s, Weight own) {
  Weight sum = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const Weight below = {shuffleUp(sum.mass, distance), unsigned(shuffleUp(int(sum.count), distance))};
    if (lane() >= distance) sum = plus(sum, below);
  }
  if (lane() == 31) s.warps[warp()] = sum;
  syncBlock();
  const Weight other = lane() < warp() ? s.warps[lane()] : Weight{};
  return {sum.mass - own.mass + sumOfLanes(other.mass), sum.count - own.count + unsigned(sumOfLanes(Mass(other.count)))};
}

// weigh(id, logit) over each warp's part of the row; ids with keys below `low` weigh nothing. A barrier must have come since `parts` was read.
template <class Weigh>
DEVICE void weighParts(const SampleShared& s, Mass* parts, const Row& r, unsigned low, Weigh weigh) {
  Mass sum = 0;
  eachFrom(s, r, low, [&](int id, float logit, bool real) {
    if (real) sum += weigh(id, logit);
  });
  sum = sumOfLanes(sum);
  if (lane() == 0) parts[warp()] = sum;
  syncBlock();
}

// The first id at which the running sum of weigh(id, logit) exceeds place, given the sums of all parts.
template <class Weigh>
DEVICE int find(SampleShared& s, const Mass* parts, const Row& r, Mass place, Weigh weigh) {
  int w = 0;
#pragma unroll 1
  for (; place >= parts[w]; w++) place -= parts[w];
  const Part part = partOf(s, r, w);
  const int each = (part.end - part.begin + threads() - 1) / threads(), first = part.begin + thread() * each;
  const int last = first + each < part.end ? first + each : part.end;
  const auto massAt = [&](int id) { return id < 0 ? 0 : weigh(id, r.logits[id]); };
  Mass own = 0;
#pragma unroll 1
  for (int id = first; id < last; id++) own += massAt(id);
  const Mass before = sumBefore(s, {own, 0}).mass;
  if (place >= before && place - before < own) {
    place -= before;
    int id = first;
#pragma unroll 1
    for (Mass m = massAt(id); place >= m; m = massAt(id)) {
      place -= m;
      id++;
    }
    s.chosen = id;
  }
  syncBlock();
  return s.chosen;
}

// ---- The search of a border

DEVICE void add(SampleShared& s, unsigned bin, Mass mass) {
  atomicAdd(&s.count[bin], 1u);
  const unsigned low = unsigned(mass);
  unsigned high = unsigned(mass >> 32);
  if (low && atomicAdd(&s.low[bin], low) + low < low) high++;
  if (high) atomicAdd(&s.high[bin], high);
}

// The bin in which the running weight exceeds place.
DEVICE Spot locate(SampleShared& s, bool byMass, Mass place) {
  const auto weight = [&](const Weight& w) { return byMass ? w.mass : w.count; };
  const auto binAt = [&](int b) { return Weight{Mass(s.high[b]) << 32 | s.low[b], s.count[b]}; };
  const int each = kSampleBins / threads(), first = thread() * each;
  Weight own = {};
#pragma unroll 1
  for (int b = first; b < first + each; b++) own = plus(own, binAt(b));
  Weight before = sumBefore(s, own);
  if (place >= weight(before) && place - weight(before) < weight(own)) {
    int b = first;
#pragma unroll 1
    for (Weight bin = binAt(b); place - weight(before) >= weight(bin); bin = binAt(b)) {
      before = plus(before, bin);
      b++;
    }
    s.spot = {before, b, s.count[b]};
  }
  syncBlock();
  return s.spot;
}

// Lists the scores whose keys lie from low to high, as many as there is room for, and counts them all.
DEVICE unsigned gather(SampleShared& s, const Row& r, unsigned low, unsigned high) {
  syncBlock();  // the length of the last list has been read
  if (thread() == 0) s.listed = 0;
  syncBlock();
  eachFrom(s, r, low, [&](int id, float logit, bool real) {
    const float score = real ? scoreOf(s, r, id, logit) : 0;
    const unsigned key = draw::key(score), members = ballot(real && key >= low && key <= high);
    if (members == 0) return;
    unsigned slot = 0;
    if (lane() == 0) slot = atomicAdd(&s.listed, unsigned(countOnes(members)));
    slot = shuffle(slot, 0) + unsigned(countOnes(members & ((1u << lane()) - 1)));
    if ((members >> lane() & 1) && slot < kSampleListed) s.list[slot] = score;
  });
  syncBlock();
  return s.listed;
}

// Of ids by falling score, the key at which the running weight exceeds a place.
struct Border {
  unsigned key;
  Weight above;    // of all larger keys
  unsigned equal;  // ids with this key
};

// A score that some id of a thread reaches whose largest logit this is.
DEVICE float reachedScore(const SampleShared& s, const Row& r, float logit) {
  if (r.adjusted) logit = minOf(logit, draw::sum(logit, scoreOfKey(s.leastKey)));
  const float plain = draw::score(logit, false, r.penalty, r.divisor);
  return r.penalised ? minOf(plain, draw::score(logit, true, r.penalty, r.divisor)) : plain;
}

// byMass says what weighs: masses, or each id the same. No border lies below the key `low`. A place of a count is at least as high as the same place
// among scores that the threads reach: these, by `mine`, the largest logit that the thread met, make the first list.
DEVICE Border border(SampleShared& s, const Row& r, float best, float mine, bool byMass, Mass place, unsigned low) {
  const unsigned top = draw::key(best);
  Border at = {top, {}, 0};  // key: the largest that it can be; equal: how many ids can be at it
  bool seeds = !byMass && place < Mass(threads()), gathers = !seeds;
  int listed = threads();                                  // negative: the list does not hold them
  if (seeds) s.list[thread()] = reachedScore(s, r, mine);  // a barrier came since the last list was read: before its histogram's scan
  for (;;) {
    if (gathers) {
      at.equal = gather(s, r, low, at.key);
      listed = at.equal <= kSampleListed ? int(at.equal) : -1;
    }
    if (low == at.key) {
      if (!seeds) return at;
      at = {top, {}, 0};
      seeds = false;
      gathers = true;
      continue;
    }
    const int bits = 32 - leadingZeros(at.key - low), shift = bits > kBinBits ? bits - kBinBits : 0;
#pragma unroll 1
    for (int b = thread(); b < kSampleBins; b += threads()) s.count[b] = s.low[b] = s.high[b] = 0;
    syncBlock();
    const auto count = [&](float score) {
      const unsigned key = draw::key(score);
      if (key >= low && key <= at.key) add(s, (at.key - key) >> shift, draw::mass(score, best));
    };
    if (listed >= 0) {
#pragma unroll 1
      for (int i = thread(); i < listed; i += threads()) count(s.list[i]);
    } else {
      eachFrom(s, r, low, [&](int id, float logit, bool real) {
        if (real) count(scoreOf(s, r, id, logit));
      });
    }
    syncBlock();
    const Spot spot = locate(s, byMass, place - (byMass ? at.above.mass : at.above.count));
    const unsigned span = (1u << shift) - 1;
    at = {at.key - (unsigned(spot.bin) << shift), plus(at.above, spot.before), spot.count};
    if (at.key - low > span) low = at.key - span;
    gathers = listed < 0 && spot.count <= kSampleListed && low < at.key;
  }
}

// The last of the first `wanted` ids with this key.
DEVICE int lastOf(SampleShared& s, const Row& r, unsigned key, Mass wanted) {
  const auto equals = [&](int id, float logit) { return Mass(draw::key(scoreOf(s, r, id, logit)) == key); };
  weighParts(s, s.sums, r, key, equals);
  return find(s, s.sums, r, wanted - 1, equals);
}

}  // namespace ewe::kernels

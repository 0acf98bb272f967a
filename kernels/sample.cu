// sample: draws one token per row of logits [rows, vocab] float32, by the steps of ops/draw.h, and gives its log-probability and the best ones.
// log_probs: the log-probability of a given token per row, and the best ones. Vocabularies of up to 2^18 ids, all paths.
//
// One block a row, 1024 threads from 4,096 ids up. From scores on everything is an integer, so threads, passes and lists may cut a row as they like
// and every device draws the same token. There is no sort. A row is read in passes:
//
//   1. the largest raw score, the largest score after penalty and temperature, whether there is a NaN
//   2. the sums of both masses; for temperature 0 the token
//   3. for each border (of top-k, of top-p, of the best list): scores that can be at the border are listed in shared memory, and the border's key is
//      found in the list by radix, 10 bits at a time: a histogram of counts and masses, a scan, and the bin in which the running weight passes the
//      wanted place. Where a list would not hold them, the histograms read the row.
//   4. the sums of the masses that stayed, for each warp's part of the row: the part in which the draw falls is then scanned
//
// Scores are not kept: 50,280 of them would take 49 of the 64 registers of each thread, or 196 KiB of shared memory, which only path 900 has. Each
// pass computes them again from the logits, which lie in the second-level cache. There a row of 201 KB is some 3,000 clocks of a multiprocessor's
// share of its rate. The two masses of pass 2 are about 400 clocks for each of their 40 instructions: this pass is what limits the kernel. The others
// look at logits alone, and compute the scores of those few that can matter.
//
// Bytes: 4 vocab, read once from memory, and 3 to 8 times from the cache. About 20 FLOPs an id.
//
// What the CPU refuses and a card can't see before the launch (settings out of range, ids of a history outside the vocabulary) gives token -1 and the
// log-probability NaN, and no list.
#include "sample.cuh"

namespace ewe::kernels {

constexpr unsigned kNan = 0x7FC00000u;

// ---- The largest scores and the sum of the raw masses

struct Best {
  float raw, scaled;  // scores
  float mine;         // the largest logit that this thread met
};
DEVICE float largestOfLanes(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = maxOf(x, shuffleXor(x, mask));
  return x;
}
DEVICE float largest(const float* each) { return largestOfLanes(lane() < threads() / 32 ? each[lane()] : floatOf(kMinusInfinity)); }

// s.nan is 0 before. Scores rise with the logits, so only what some ids have, a penalty or an adjustment, asks for a look at each.
DEVICE Best findBest(SampleShared& s, const Row& raw, const Row& scaled) {
  float mine = floatOf(kMinusInfinity), looked = mine;
  const bool look = scaled.penalised || scaled.adjusted;
  bool nan = false;
  eachLogit<4>(s, raw, [&](int id, float logit, bool real) {
    nan = nan || logit != logit;
    mine = maxOf(mine, logit);
    if (look && real) looked = maxOf(looked, scoreOf(s, scaled, id, logit));
  });
  if (nan) atomicOr(&s.nan, 1u);
  const float raws = largestOfLanes(mine), scaleds = largestOfLanes(look ? looked : draw::score(mine, false, 1, scaled.divisor));
  if (lane() == 0) {
    s.raw[warp()] = raws;
    s.scaled[warp()] = scaleds;
  }
  syncBlock();
  const Best best = {draw::tame(largest(s.raw)), largest(s.scaled), mine};
  if (thread() == 0) {
    s.bestRaw = best.raw;
    s.bestScaled = best.scaled;
  }
  return best;
}

// From each thread's sum of raw masses. In double, which cards are slow at: one thread does it. Others know it after another barrier.
DEVICE void findLogTotal(SampleShared& s, Mass mine) {
  const Mass sum = sumOfLanes(mine);
  if (lane() == 0) s.sums[warp()] = sum;
  syncBlock();
  if (warp() > 0) return;
  const Mass total = sumOfParts(s.sums);
  if (lane() == 0) s.logTotal = draw::logTotal(total, s.nan != 0);
}

DEVICE float logProbOf(const SampleShared& s, const Row& raw, int id) { return draw::logProb(raw.logits[id], s.bestRaw, s.logTotal); }

// The `top` best raw scores, the lower id first among equals.
DEVICE void writeTop(SampleShared& s, const Row& raw, float mine, int top, int* token, float* logprob) {
  const Border b = border(s, raw, s.bestRaw, mine, false, Mass(top - 1), 0);
  const unsigned wanted = unsigned(top) - b.above.count;
  const int last = wanted < b.equal ? lastOf(s, raw, b.key, wanted) : raw.vocab;
  syncBlock();
  if (thread() == 0) s.listed = 0;
  syncBlock();
  eachFrom(s, raw, b.key, [&](int id, float logit, bool real) {
    const float score = draw::tame(logit);
    const unsigned key = draw::key(score);
    if (!real || key < b.key || (key == b.key && id > last)) return;
    const unsigned slot = atomicAdd(&s.listed, 1u);
    s.topToken[slot] = id;
    s.topScore[slot] = score;
  });
  syncBlock();
  if (thread() >= top) return;
  const int id = s.topToken[thread()];
  const float score = s.topScore[thread()];
  int rank = 0;
#pragma unroll 1
  for (int i = 0; i < top; i++) rank += s.topScore[i] > score || (s.topScore[i] == score && s.topToken[i] < id);
  token[rank] = id;
  logprob[rank] = logProbOf(s, raw, id);
}

// ---- sample

DEVICE bool allowed(const Sampling& how, const Sample& a) {  // written so that a NaN is not
  return how.temperature >= 0 && how.temperature <= draw::kLargest && how.topP > 0 && how.topP <= 1 && how.minP >= 0 && how.minP <= 1 &&
         how.repetitionPenalty > 0 && how.repetitionPenalty <= draw::kLargest && how.topK >= 0 && how.top >= 0 && how.top <= a.topStride &&
         how.top <= a.vocab && how.adjusted >= 0;
}

DEVICE Row scaledRow(Row r, const Sampling& how) {
  r.penalised = how.repetitionPenalty != 1;
  r.penalty = how.repetitionPenalty;
  r.divisor = how.temperature == 1 ? 0 : how.temperature;  // x / 1 is x
  r.adjusted = how.adjusted > 0;
  return r;
}

// Marks the ids whose logits are adjusted; false where they do not rise within the vocabulary, or something else than a number is added. `s.adjusted`
// and s.leastKey are clear.
DEVICE bool markAdjusted(SampleShared& s, const Sampling& how, int vocab) {
#pragma unroll 1
  for (int i = thread(); i < how.adjusted; i += threads()) {
    const int id = how.adjustedId[i];
    const float amount = how.adjustment[i];
    const bool rises = id >= 0 && id < vocab && (i == 0 || id > how.adjustedId[i - 1]);
    if (rises && amount >= -draw::kLargest && amount <= draw::kLargest) {
      atomicOr(&s.adjusted[id >> 5 & 31], 1u << (id & 31));
      atomicMin(&s.leastKey, draw::key(draw::tame(amount)));
    } else {
      atomicOr(&s.strange, 1u);
    }
  }
  syncBlock();
  return s.strange == 0;
}

// Marks the ids of the history in s.repeated; false where one is outside the vocabulary.
DEVICE bool markRepeated(SampleShared& s, const Sampling& how, int vocab) {
#pragma unroll 1
  for (int w = thread(); w < (vocab + 31) / 32; w += threads()) s.repeated[w] = 0;
  syncBlock();
#pragma unroll 1
  for (int i = thread(); i < how.historyLength; i += threads()) {
    const int id = how.history[i];
    if (id >= 0 && id < vocab) {
      atomicOr(&s.repeated[id >> 5], 1u << (id & 31));
    } else {
      atomicOr(&s.strange, 1u);
    }
  }
  syncBlock();
  return s.strange == 0;
}

// Ids with smaller keys have masses up to 2^e, or of 0 for e < 0. Those masses end at (e - 44) ln 2; the rounding of a mass doesn't reach 0.01 below
// it, and the rounding of the sum is less than two keys.
DEVICE unsigned keyOfMass(int e, float best) {
  const float distance = float((e > -1 ? e : -1) - draw::kUnitBits) * 0.6931472f - 0.01f;
  return draw::key(draw::sum(best, distance)) - 2;
}
DEVICE int bitsOfMass(Mass m) {
  const unsigned high = unsigned(m >> 32);
  return high ? 64 - leadingZeros(high) : 32 - leadingZeros(unsigned(m));
}

// How many of `equal` ids with this mass it takes to reach `need`, which all of them do. (A 64-bit division would take registers that are not there.)
DEVICE unsigned leastOf(unsigned equal, Mass each, Mass need) {
  unsigned least = 1;
#pragma unroll 1
  for (unsigned step = 1u << 17; step > 0; step /= 2) {
    if (least + step <= equal && each * (least + step - 1) < need) least += step;
  }
  return least;
}

// Steps 3 to 6 of ops/draw.h, given the masses of each part.
DEVICE int drawToken(SampleShared& s, const Row& r, const Sampling& how, float best, float mine) {
  unsigned cut = 0;    // the key of the last border, 0 for none
  int last = r.vocab;  // of the ids with this key
  Mass kept = 0;       // by it
  for (int nucleus = 0; nucleus < 2; nucleus++) {
    if (nucleus ? how.topP >= 1 : how.topK == 0 || how.topK >= r.vocab) continue;
    if (cut == 0) kept = sumOfParts(s.parts);
    const Mass need = nucleus ? draw::nucleus(how.topP, kept) : Mass(how.topK);
    // All ids below the key `tail` together have no more mass than what the nucleus leaves out: 2^e vocab at most, so no border lies there.
    const int e = nucleus ? bitsOfMass(kept - need) - 1 - bitsOfMass(Mass(r.vocab)) : 0;
    const unsigned tail = nucleus ? keyOfMass(e, best) : 0;
    const Border b = border(s, r, best, mine, nucleus, need - 1, tail > cut ? tail : cut);
    const Mass each = draw::mass(scoreOfKey(b.key), best);
    const unsigned wanted = nucleus ? leastOf(b.equal, each, need - b.above.mass) : b.equal;
    if (wanted < b.equal) last = lastOf(s, r, b.key, wanted);
    cut = b.key;
    kept = b.above.mass + each * wanted;
  }
  const Mass floor = draw::floorOf(how.minP);
  const auto weigh = [&](int id, float logit) -> Mass {
    const float score = scoreOf(s, r, id, logit);
    const unsigned key = draw::key(score);
    if (key < cut || (key == cut && id > last)) return 0;
    const Mass m = draw::mass(score, best);
    return m < floor ? 0 : m;
  };
  if (cut > 0 || floor > 0) {
    const unsigned light = floor > 0 ? keyOfMass(bitsOfMass(floor) - 2, best) : 0;  // up to half of the floor
    weighParts(s, s.parts, r, light > cut ? light : cut, weigh);
  }
  return find(s, s.parts, r, draw::place(s.random, sumOfParts(s.parts)), weigh);
}

KERNEL(sample, Sample, kSampleThreads, 1) {
  SHARED(SampleShared, s);
  const int row = blockX();
  if (args.live && row >= *args.live) return;
  const Sampling& how = args.sampling[row];
  const Row raw = rowOf(args.logits + row * args.stride, args.vocab);
  if (thread() == 0) {
    s.ids = idsOfWarp(raw);
    s.nan = s.strange = 0;
    s.lowest = ~0u;
    s.leastKey = draw::key(0);
    s.how = &how;
  }
  if (thread() < 32) s.adjusted[thread()] = 0;
  syncBlock();
  bool good = allowed(how, args);
  if (good && how.repetitionPenalty != 1) good = markRepeated(s, how, args.vocab);
  if (good && how.adjusted) good = markAdjusted(s, how, args.vocab);
  if (!good) {
    if (thread() == 0) {
      args.token[row] = -1;
      args.logprob[row] = floatOf(kNan);
    }
    return;
  }

  const Row scaled = scaledRow(raw, how);
  const Best best = findBest(s, raw, scaled);
  const bool greedy = how.temperature == 0, same = !scaled.penalised && !scaled.adjusted && scaled.divisor == 0;
  Mass rawMass = 0, mass = 0;
  unsigned lowest = ~0u;
  eachLogit<2>(s, raw, [&](int id, float logit, bool real) {
    if (!real) return;
    float score = draw::tame(logit);
    Mass m = draw::mass(score, best.raw);
    rawMass += m;
    if (!same) score = scoreOf(s, scaled, id, logit);
    if (greedy) {
      if (score == best.scaled && unsigned(id) < lowest) lowest = unsigned(id);
    } else {
      mass += same ? m : draw::mass(score, best.scaled);
    }
  });
  if (lowest != ~0u) atomicMin(&s.lowest, lowest);
  mass = sumOfLanes(mass);
  if (lane() == 0) s.parts[warp()] = mass;
  if (thread() == threads() - 1) s.random = draw::random(how.seed, how.sample, how.position);
  findLogTotal(s, rawMass);

  if (how.top > 0) {
    writeTop(s, raw, best.mine, how.top, args.topToken + (long long)row * args.topStride, args.topLogprob + (long long)row * args.topStride);
  }
  const int token = greedy ? int(s.lowest) : drawToken(s, scaledRow(raw, how), how, s.bestScaled, best.mine);
  if (thread() == 0) {
    args.token[row] = token;
    args.logprob[row] = logProbOf(s, raw, token);
  }
}

// ---- log_probs

KERNEL(log_probs, LogProbs, kSampleThreads, 1) {
  SHARED(SampleShared, s);
  const int row = blockX();
  const Row raw = rowOf(args.logits + row * args.stride, args.vocab);
  if (thread() == 0) {
    s.ids = idsOfWarp(raw);
    s.nan = 0;
  }
  syncBlock();
  const Best best = findBest(s, raw, raw);
  Mass mass = 0;
  eachLogit<2>(s, raw, [&](int, float logit, bool real) {
    if (real) mass += draw::mass(draw::tame(logit), best.raw);
  });
  findLogTotal(s, mass);
  const int target = args.target[row];
  if (thread() == 0 && target >= 0) args.logprob[row] = target < args.vocab ? logProbOf(s, raw, target) : floatOf(kNan);
  if (args.top == 0) return;
  writeTop(s, raw, best.mine, args.top, args.topToken + (long long)row * args.top, args.topLogprob + (long long)row * args.top);
}

}  // namespace ewe::kernels

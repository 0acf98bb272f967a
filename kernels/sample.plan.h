// Plans of sample.cu.
#pragma once
#include "ops/draw.h"
#include "plan.h"

namespace ewe::kernels {

constexpr int kSampleThreads = 1024;  // of a row's block, at most: as many as a multiprocessor of any path takes
constexpr int kSampleBins = 1024;
constexpr int kSampleListed = 4096;  // scores that a search keeps in shared memory
constexpr int kSampleTop = 32;       // best ids of a list: one warp orders them

// Bytes of SampleShared: its three tables and the rest. The set of repeated ids follows, a bit each.
constexpr int kSampleShared = 12 * kSampleBins + 4 * kSampleListed + 8 * kSampleTop + 1496;
static_assert(kSampleShared + draw::kMaxVocab / 8 <= 64 * 1024, "the least that a card's block may ask for");

// One thread for four ids; a power of two, so that the bins share out evenly. The count decides nothing but the time.
constexpr int sampleThreads(int vocab) {
  int threads = 32;
  while (threads < kSampleThreads && 4 * threads < vocab) threads *= 2;
  return threads;
}

constexpr Launch planLogitRows(const char* name, int rows, int vocab, int top, int sharedBytes) {
  if (vocab < 1 || vocab > draw::kMaxVocab) return refuse("logits are of 1 to 262,144 ids, so that the sum of their masses fits 64 bits");
  if (top < 0 || top > kSampleTop) return refuse("a list of the best log-probabilities has at most 32 ids: ask for fewer");
  Launch l{};
  append(l, name);
  l.gridX = unsigned(rows);
  l.gridY = l.gridZ = 1;
  l.threads = unsigned(sampleThreads(vocab));
  l.sharedBytes = sharedBytes;
  return l;
}

constexpr Launch planSample(const Sample& s, const CardLimits&) {
  return planLogitRows("sample", s.rows, s.vocab, s.topStride, kSampleShared + 4 * divideUp(s.vocab, 32));
}
constexpr Launch planLogProbs(const LogProbs& l, const CardLimits&) {
  if (l.top > l.vocab) return refuse("a list of the best log-probabilities is longer than the vocabulary: ask for no more than there are ids");
  return planLogitRows("log_probs", l.rows, l.vocab, l.top, kSampleShared);
}

}  // namespace ewe::kernels

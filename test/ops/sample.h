// For the cases of sample and logProbs: running them, and the steps of ops/draw.h over a row written out with a sort.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "cases.h"
#include "ops/draw.h"

namespace ewe::test::draws {

using draw::Mass;

// ---- Running the ops

constexpr int kLargestVocab = 50280;

struct Row {
  std::vector<float> logits;
  Sampling how = {1, 1, 0, 1, 0, 0, 0, 0, 0, nullptr, 0};
  std::vector<int> history;
};

template <class T>
Buffer put(Run& run, const std::vector<T>& values) {
  Buffer buffer(run, values.size() * sizeof(T));
  if (!values.empty()) run.check(run.ops.upload(buffer.data(), values.data(), buffer.bytes()));
  return buffer;
}
template <class T>
void get(Run& run, std::vector<T>& values, const Buffer& buffer) {
  if (!values.empty()) run.check(run.ops.download(values.data(), buffer.data(), buffer.bytes()));
}
template <class T>
T* at(const Buffer& buffer) {
  return static_cast<T*>(buffer.data());
}

// The outputs of both ops, on the host and on the device.
struct Out {
  Out(size_t rows, size_t top) : token(rows, -1), topToken(rows * top, -1), logprob(rows, -1), topLogprob(rows * top, -1) {}
  std::vector<int> token, topToken;
  std::vector<float> logprob, topLogprob;
};

inline Status trySample(Run& run, const std::vector<Row>& rows, int topStride, Out& out) {
  const size_t vocab = rows[0].logits.size(), stride = vocab + 3;  // rows that don't begin on a vector
  std::vector<float> logits;
  std::vector<Sampling> how;
  std::vector<Buffer> histories;
  for (const Row& row : rows) {
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    logits.resize((how.size() + 1) * stride, 1e30f);  // what lies between rows would win
    how.push_back(row.how);
    if (row.history.empty()) continue;
    histories.push_back(put(run, row.history));
    how.back().history = at<int>(histories.back());
    how.back().historyLength = int(row.history.size());
  }
  const Buffer z = put(run, logits), sampling = put(run, how), token = put(run, out.token), logprob = put(run, out.logprob);
  const Buffer topToken = put(run, out.topToken), topLogprob = put(run, out.topLogprob);
  EWE_TRY(run.ops.sample({at<float>(z), at<Sampling>(sampling), at<int>(token), at<float>(logprob), at<int>(topToken), at<float>(topLogprob),
                          (long long)stride, int(rows.size()), int(vocab), topStride}));
  get(run, out.token, token);
  get(run, out.logprob, logprob);
  get(run, out.topToken, topToken);
  get(run, out.topLogprob, topLogprob);
  return {};
}
inline Out sample(Run& run, const std::vector<Row>& rows, int topStride = 0) {
  Out out(rows.size(), size_t(topStride));
  run.check(trySample(run, rows, topStride, out));
  return out;
}

inline Out logProbs(Run& run, const std::vector<float>& logits, int vocab, const std::vector<int>& target, int top) {
  Out out(target.size(), size_t(top));
  const Buffer z = put(run, logits), targets = put(run, target), logprob = put(run, out.logprob);
  const Buffer topToken = put(run, out.topToken), topLogprob = put(run, out.topLogprob);
  run.check(run.ops.logProbs(
      {at<float>(z), at<int>(targets), at<float>(logprob), at<int>(topToken), at<float>(topLogprob), vocab, int(target.size()), vocab, top}));
  get(run, out.logprob, logprob);
  get(run, out.topToken, topToken);
  get(run, out.topLogprob, topLogprob);
  return out;
}

inline void reserve(Run& run) {
  Limits limits = {};
  limits.rows = 1000;
  limits.vocab = kLargestVocab;
  run.check(run.ops.reserve(limits));
}

inline bool sameBits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

// ---- The definition, with a sort

struct Reference {
  std::vector<int> kept;   // rising ids; one far below the best may have mass 0
  std::vector<Mass> mass;  // of what is kept, 0 elsewhere
  Mass total = 0;
  int token = -1;
  float logprob = NAN;
};

// Log-probabilities of the raw logits.
struct RawReference {
  explicit RawReference(const std::vector<float>& logits) : logits(logits) {
    bool nan = false;
    for (float z : logits) {
      best = std::max(best, draw::tame(z));
      nan |= std::isnan(z);
    }
    Mass total = 0;
    for (float z : logits) total += draw::mass(draw::tame(z), best);
    logTotal = draw::logTotal(total, nan);
  }
  float operator()(int id) const { return draw::logProb(logits[size_t(id)], best, logTotal); }

  const std::vector<float>& logits;
  float best = -draw::kLargest;
  double logTotal;
};

inline Reference reference(const Row& row) {
  const int vocab = int(row.logits.size());
  const Sampling& how = row.how;
  const std::set<int> repeated(row.history.begin(), row.history.end());
  std::vector<float> score;
  std::vector<int> order;
  for (int id = 0; id < vocab; id++) {
    score.push_back(draw::score(row.logits[size_t(id)], repeated.count(id) > 0, how.repetitionPenalty, how.temperature));
    order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return draw::key(score[size_t(a)]) > draw::key(score[size_t(b)]); });

  Reference r;
  r.mass.assign(score.size(), 0);
  if (how.temperature == 0) {
    r.token = order[0];
  } else {
    size_t kept = order.size();
    if (how.topK > 0 && how.topK < vocab) {
      kept = size_t(how.topK);
      while (kept < order.size() && score[size_t(order[kept])] == score[size_t(order[kept - 1])]) kept++;
    }
    std::vector<Mass> mass;
    Mass total = 0;
    for (size_t i = 0; i < kept; i++) total += mass.emplace_back(draw::mass(score[size_t(order[i])], score[size_t(order[0])]));
    if (how.topP < 1) {
      const Mass need = draw::nucleus(how.topP, total);
      Mass reached = 0;
      for (kept = 0; reached < need; kept++) reached += mass[kept];
    }
    for (size_t i = 0; i < kept; i++) {
      if (mass[i] < draw::floorOf(how.minP)) continue;
      r.kept.push_back(order[i]);
      r.total += r.mass[size_t(order[i])] = mass[i];
    }
    std::sort(r.kept.begin(), r.kept.end());
    Mass place = draw::place(draw::random(how.seed, how.sample, how.position), r.total);
    for (r.token = 0; place >= r.mass[size_t(r.token)]; r.token++) place -= r.mass[size_t(r.token)];
  }
  r.logprob = RawReference(row.logits)(r.token);
  return r;
}

}  // namespace ewe::test::draws

// For the cases of sample and logProbs: running them, and the steps of ops/draw.h over a row written out with a sort.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "cases.h"
#include "expect.h"
#include "ops/draw.h"

namespace ewe::test::draws {

using draw::Mass;

// ---- Running the ops

constexpr int kLargestVocab = 100352;

struct Row {
  std::vector<float> logits;
  Sampling how = {1, 1, 0, 1, 0, 0, 0, 0, 0, nullptr, 0};
  std::vector<int> history;
  std::vector<std::pair<int, float>> adjusted = {};  // rising ids
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

// With `shared` all rows draw from the logits of the first.
inline Status trySample(Run& run, const std::vector<Row>& rows, int topStride, Out& out, bool shared = false, const int* live = nullptr) {
  const size_t vocab = rows[0].logits.size(), stride = vocab + 3;  // rows that don't begin on a vector
  std::vector<float> logits;
  std::vector<Sampling> how;
  std::vector<Buffer> histories;
  for (const Row& row : rows) {
    if (!shared || how.empty()) logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    logits.resize((shared ? 1 : how.size() + 1) * stride, 1e30f);  // what lies between rows would win
    how.push_back(row.how);
    if (!row.adjusted.empty()) {
      std::vector<int> ids;
      std::vector<float> amounts;
      for (const auto& [id, amount] : row.adjusted) ids.push_back(id), amounts.push_back(amount);
      histories.push_back(put(run, ids));
      how.back().adjustedId = at<int>(histories.back());
      histories.push_back(put(run, amounts));
      how.back().adjustment = at<float>(histories.back());
      how.back().adjusted = int(ids.size());
    }
    if (row.history.empty()) continue;
    histories.push_back(put(run, row.history));
    how.back().history = at<int>(histories.back());
    how.back().historyLength = int(row.history.size());
  }
  const Buffer z = put(run, logits), sampling = put(run, how), token = put(run, out.token), logprob = put(run, out.logprob);
  const Buffer topToken = put(run, out.topToken), topLogprob = put(run, out.topLogprob);
  EWE_TRY(run.ops.sample({at<float>(z), at<Sampling>(sampling), at<int>(token), at<float>(logprob), at<int>(topToken), at<float>(topLogprob), live,
                          shared ? 0 : (long long)stride, int(rows.size()), int(vocab), topStride}));
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

// ---- Rows to draw from

inline std::vector<float> normal(size_t count, float scale, unsigned seed) {
  Random random(seed);
  std::vector<float> x(count);
  for (float& v : x) v = scale * float(random.normal());
  return x;
}

// One of many shapes: smooth, peaked, with heavy ties, constant, over all exponents, tiny, huge, and with numbers that are none.
inline std::vector<float> shaped(int shape, size_t count, unsigned seed) {
  Random random(seed + 1000);
  std::vector<float> x = normal(count, shape % 2 ? 1 : 4, seed);
  for (float& v : x) {
    const int dice = random.below(1 << 20);
    if (shape == 2) v = std::floor(v);
    if (shape == 3) v = dice % 2 ? 0.0f : -0.0f;
    if (shape == 4) v = std::ldexp(v, -(dice % 140));
    if (shape == 5) v *= 1e-30f;
    if (shape == 6) v *= 1e38f;
    if (shape == 7 && dice % 16 == 0) v = dice % 32 ? -INFINITY : NAN;
    if (shape == 8 && dice % 8 == 0) v = dice % 16 ? INFINITY : NAN;
    if (shape == 9) v = -INFINITY;
    if (shape == 10) v = std::round(v * 2) / 2 + (dice % 50 == 0 ? 12 : 0);
    if (shape == 11) v = dice % 3 ? -30.0f - v : v;
  }
  return x;
}
constexpr int kShapes = 12;
constexpr int kTop = 20;  // the longest list of best ids

inline Row randomRow(size_t vocab, unsigned seed) {
  Random random(seed + 2000);
  const auto one = [&](std::initializer_list<float> values) { return values.begin()[random.below(int(values.size()))]; };
  Row row;
  row.logits = shaped(random.below(kShapes), vocab, seed);
  row.how.temperature = one({0, 1, 1, 0.7f, 1.6f, 1e-3f, 1e30f, 1e-36f});
  row.how.topP = one({1, 1, 0.92f, 0.5f, 0.1f, 0.999f, 1e-6f});
  row.how.minP = one({0, 0, 0.1f, 1, 1e-4f});
  row.how.repetitionPenalty = one({1, 1.3f, 0.8f});
  row.how.topK = int(one({0, 0, 1, 7, 40})) * (random.below(4) ? 1 : int(vocab / 50 + 1));
  row.how.top = std::min(int(one({0, 0, 0, 1, 5, kTop})), int(vocab));
  row.how.seed = random.next();
  row.how.sample = unsigned(random.below(4));
  row.how.position = unsigned(random.next());
  for (int i = random.below(40); i > 0; i--) row.history.push_back(random.below(int(std::min<size_t>(vocab, 60))));
  // Where the history is too, and anywhere; small amounts and ones that decide.
  std::map<int, float> adjusted;
  for (int i = random.below(3) ? 0 : 1 + random.below(30); i > 0; i--)
    adjusted[random.below(int(random.below(2) ? std::min<size_t>(vocab, 60) : vocab))] = one({-100, -1.5f, -0.25f, 0.5f, 2, 100, 0, 1e30f, -3.4e38f});
  row.adjusted.assign(adjusted.begin(), adjusted.end());
  return row;
}

inline bool sameBits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

// ---- The definition, with a sort

struct Reference {
  std::vector<int> kept;   // rising ids; one far below the best may have mass 0
  std::vector<Mass> mass;  // of what is kept, 0 elsewhere
  Mass total = 0;
  int token = -1;
  float logprob = NAN;
  std::vector<int> top;  // the best of the raw logits
  std::vector<float> topLogprob;
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
  std::vector<int> top(size_t count) const {
    std::vector<int> order(logits.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = int(i);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return draw::tame(logits[size_t(a)]) > draw::tame(logits[size_t(b)]); });
    order.resize(count);
    return order;
  }

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
  const std::map<int, float> adjusted(row.adjusted.begin(), row.adjusted.end());
  for (int id = 0; id < vocab; id++) {
    const auto amount = adjusted.find(id);
    const float logit = row.logits[size_t(id)];
    score.push_back(draw::score(amount == adjusted.end() ? logit : draw::sum(logit, amount->second), repeated.count(id) > 0, how.repetitionPenalty,
                                how.temperature));
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
  const RawReference raw(row.logits);
  r.logprob = raw(r.token);
  if (how.top > 0) r.top = raw.top(size_t(how.top));
  for (int id : r.top) r.topLogprob.push_back(raw(id));
  return r;
}

inline void compare(Run& run, const std::vector<Row>& rows, const std::vector<Reference>& references, const Out& out) {
  for (size_t i = 0; i < rows.size(); i++) {
    const Sampling& how = rows[i].how;
    const Reference& r = references[i];
    EXPECT(out.token[i] == r.token, "%zu ids, row %zu: id %d, not %d (temperature %g topK %d topP %g minP %g penalty %g)", rows[i].logits.size(), i,
           out.token[i], r.token, double(how.temperature), how.topK, double(how.topP), double(how.minP), double(how.repetitionPenalty));
    EXPECT(sameBits(out.logprob[i], r.logprob), "%zu ids, row %zu: log-probability %.9g, not %.9g", rows[i].logits.size(), i, double(out.logprob[i]),
           double(r.logprob));
    for (size_t j = 0; j < r.top.size(); j++) {
      const size_t at = i * kTop + j;
      EXPECT(out.topToken[at] == r.top[j] && sameBits(out.topLogprob[at], r.topLogprob[j]), "%zu ids, row %zu: best %zu is %d: %.9g, not %d: %.9g",
             rows[i].logits.size(), i, j, out.topToken[at], double(out.topLogprob[at]), r.top[j], double(r.topLogprob[j]));
    }
    for (size_t j = r.top.size(); j < kTop; j++) EXPECT(out.topToken[i * kTop + j] == -1, "row %zu: its list is longer than asked for", i);
  }
}

}  // namespace ewe::test::draws

// The ops sample and logProbs against the definition, sample.h.
#include "sample.h"

#include "../model/files.h"
#include "expect.h"

namespace ewe::test {
namespace {

using namespace draws;

std::vector<float> normal(size_t count, float scale, unsigned seed) {
  Random random(seed);
  std::vector<float> x(count);
  for (float& v : x) v = scale * float(random.normal());
  return x;
}

// One of many shapes: smooth, peaked, with heavy ties, constant, over all exponents, tiny, huge, and with numbers that are none.
std::vector<float> shaped(int shape, size_t count, unsigned seed) {
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

Row randomRow(size_t vocab, unsigned seed) {
  Random random(seed + 2000);
  const auto one = [&](std::initializer_list<float> values) { return values.begin()[random.below(int(values.size()))]; };
  Row row;
  row.logits = shaped(random.below(kShapes), vocab, seed);
  row.how.temperature = one({0, 1, 1, 0.7f, 1.6f, 1e-3f});
  row.how.topP = one({1, 1, 0.92f, 0.5f, 0.1f, 0.999f, 1e-6f});
  row.how.minP = one({0, 0, 0.1f, 1, 1e-4f});
  row.how.repetitionPenalty = one({1, 1.3f, 0.8f});
  row.how.topK = int(one({0, 0, 1, 7, 40})) * (random.below(4) ? 1 : int(vocab / 50 + 1));
  row.how.seed = random.next();
  row.how.sample = unsigned(random.below(4));
  row.how.position = unsigned(random.next());
  for (int i = random.below(40); i > 0; i--) row.history.push_back(random.below(int(std::min<size_t>(vocab, 60))));
  return row;
}

// ---- Cases

static void transformers(Run& run) {
  int ties = 0;
  const Json cases = readJson("test/fixtures/sampling.json");
  EXPECT(cases.items.size() == 81, "%zu cases", cases.items.size());
  for (const Json& c : cases.items) {
    const Json& options = c["options"];
    Row row;
    for (double z : c["logits"].numbers()) row.logits.push_back(float(z));
    for (double id : c["history"].numbers()) row.history.push_back(int(id));
    const auto option = [&](const char* name, double otherwise) { return options.has(name) ? options[name].number : otherwise; };
    row.how.temperature = float(option("temperature", 1));
    row.how.topP = float(option("top_p", 1));
    row.how.minP = float(option("min_p", 0));
    row.how.repetitionPenalty = float(option("repetition_penalty", 1));
    row.how.topK = int(option("top_k", 0));
    const Reference r = reference(row);
    std::vector<int> wanted;
    std::vector<double> is, golden = c["probs"].numbers();
    for (int id : r.kept) is.push_back(double(r.mass[size_t(id)]) / double(r.total));
    for (double id : c["kept"].numbers()) wanted.push_back(int(id));
    // Which of several equal ids top-p keeps is arbitrary there: only how many, and their probabilities.
    const bool arbitrary = c["shape"].string == "ties" && row.how.topP < 1;
    ties += arbitrary && r.kept != wanted;
    EXPECT(arbitrary || r.kept == wanted, "%s %d: other ids are kept", c["shape"].string.c_str(), int(c["vocab"].number));
    EXPECT(is.size() == golden.size(), "%s %d: %zu ids are kept, not %zu", c["shape"].string.c_str(), int(c["vocab"].number), is.size(),
           golden.size());
    if (arbitrary) {
      std::sort(is.begin(), is.end());
      std::sort(golden.begin(), golden.end());
    }
    for (size_t i = 0; i < std::min(is.size(), golden.size()); i++)
      EXPECT(std::fabs(is[i] - golden[i]) < 1e-6, "probability %.9g, not %.9g", is[i], golden[i]);
  }
  EXPECT(ties < 9, "%d of the cases with ties keep other ids", ties);
}

struct Batch {
  std::vector<Row> rows;
  std::vector<Reference> references;
};

// Made once for all devices. Vocabularies around the borders of vectors and blocks, and a real one.
static const std::vector<Batch>& batches() {
  static const std::vector<Batch> all = [] {
    std::vector<Batch> made;
    unsigned seed = 1;
    const auto add = [&](size_t vocab, int rows) {
      Batch batch;
      for (int i = 0; i < rows; i++) {
        batch.rows.push_back(randomRow(vocab, seed++));
        batch.references.push_back(reference(batch.rows.back()));
      }
      made.push_back(std::move(batch));
    };
    for (size_t vocab = 1; vocab <= 70; vocab++) add(vocab, 50);
    for (size_t vocab = 71; vocab < 1500; vocab += 37) add(vocab, 8);
    for (int i = 0; i < 10; i++) add(kLargestVocab, 4);
    return made;
  }();
  return all;
}

static void definition(Run& run) {
  reserve(run);
  for (const Batch& batch : batches()) {
    const Out out = sample(run, batch.rows);
    for (size_t i = 0; i < batch.rows.size(); i++) {
      const Sampling& how = batch.rows[i].how;
      const Reference& r = batch.references[i];
      EXPECT(out.token[i] == r.token, "%zu ids, row %zu: id %d, not %d (temperature %g topK %d topP %g minP %g)", batch.rows[i].logits.size(), i,
             out.token[i], r.token, double(how.temperature), how.topK, double(how.topP), double(how.minP));
      EXPECT(sameBits(out.logprob[i], r.logprob), "%zu ids, row %zu: log-probability %.9g, not %.9g", batch.rows[i].logits.size(), i,
             double(out.logprob[i]), double(r.logprob));
    }
  }
}

static void distribution(Run& run) {
  reserve(run);
  Row row;
  row.logits = normal(64, 1.5f, 5);
  row.how.topP = 0.95f;
  row.how.minP = 0.005f;
  row.how.seed = 42;
  const Reference r = reference(row);
  std::vector<int> counts(row.logits.size(), 0);
  const int draws = 100000, batch = 1000;
  for (int i = 0; i < draws; i += batch) {
    std::vector<Row> rows(size_t(batch), row);
    for (int j = 0; j < batch; j++) {
      rows[size_t(j)].how.position = unsigned(i + j) / 4;
      rows[size_t(j)].how.sample = unsigned(i + j) % 4;
    }
    for (int token : sample(run, rows).token) counts[size_t(token)]++;
  }
  double chi = 0;
  int classes = 0;
  for (size_t i = 0; i < counts.size(); i++) {
    const double expected = draws * double(r.mass[i]) / double(r.total);
    EXPECT(expected > 0 || counts[i] == 0, "id %zu was removed but drawn %d times", i, counts[i]);
    if (expected == 0) continue;
    chi += (counts[i] - expected) * (counts[i] - expected) / expected;
    classes++;
  }
  // Every class expects more than 100 draws, so chi is close to a chi-square variable of classes - 1 degrees: mean that, variance twice that. Five
  // standard deviations above are reached once in 10^5 seeds; the seed is fixed.
  EXPECT(classes > 20 && classes < 64 && chi < classes - 1 + 5 * std::sqrt(2.0 * (classes - 1)), "chi-square %.1f over %d classes", chi, classes);
}

static void places(Run& run) {
  reserve(run);
  std::vector<Row> rows;
  for (unsigned i = 0; i < 9; i++) {
    rows.push_back(randomRow(997, 100 + i));
    rows.back().how.top = int(i % 6);
  }
  const Out together = sample(run, rows, 5);
  for (size_t i = 0; i < rows.size(); i++) {
    const Out alone = sample(run, {rows[i]}, 5);
    EXPECT(alone.token[0] == together.token[i], "row %zu: id %d alone, %d together", i, alone.token[0], together.token[i]);
    EXPECT(std::memcmp(&alone.logprob[0], &together.logprob[i], 4) == 0, "row %zu: other log-probability", i);
    EXPECT(std::memcmp(alone.topLogprob.data(), &together.topLogprob[i * 5], 20) == 0 &&
               std::memcmp(alone.topToken.data(), &together.topToken[i * 5], 20) == 0,
           "row %zu: other best", i);
  }
}

static void greedy(Run& run) {
  reserve(run);
  Row row;
  row.how.temperature = 0;
  const auto token = [&](std::vector<float> logits, std::vector<int> history = {}, float penalty = 1) {
    row.logits = std::move(logits);
    row.history = std::move(history);
    row.how.repetitionPenalty = penalty;
    return sample(run, {row}).token[0];
  };
  EXPECT(token({1, 3, 3, 2}) == 1, "equals");
  EXPECT(token({-0.0f, 0.0f}) == 0 && token({-1, -0.0f, 0.0f}) == 1, "zeros are equal");
  EXPECT(token({1, 3, 2.9f, 2}, {1, 1, 1}, 1.2f) == 2, "once per id: 3 / 1.2 = 2.5");
  EXPECT(token({1, 3, 2, 2}, {1, 1, 1}, 1.2f) == 1, "only once: 3 / 1.2^2 = 2.08, / 1.2^3 = 1.74");
  EXPECT(token({-1, -1.1f}, {0}, 1.2f) == 1, "negative logits are multiplied");
  EXPECT(token({NAN, -5, NAN}) == 1 && token({NAN, NAN}) == 0, "NaN is the lowest");
  EXPECT(token({-INFINITY, -5}) == 1 && token({-INFINITY, -INFINITY}) == 0 && token({3, INFINITY, INFINITY}) == 1, "infinities");
  std::vector<float> wide(50280, -1);
  wide[50279] = wide[50001] = 2;
  EXPECT(token(wide) == 50001, "in the last vectors");
}

static void strange(Run& run) {
  reserve(run);
  for (int shape : {7, 8, 9}) {
    for (size_t vocab : {1, 15, 16, 17, 333}) {
      Row row;
      row.logits = shaped(shape, vocab, unsigned(vocab));
      const bool nan = std::any_of(row.logits.begin(), row.logits.end(), [](float z) { return std::isnan(z); });
      for (unsigned position = 0; position < 20; position++) {
        row.how.position = position;
        const Out out = sample(run, {row});
        EXPECT(out.token[0] >= 0 && size_t(out.token[0]) < vocab && reference(row).mass[size_t(out.token[0])] > 0, "id %d", out.token[0]);
        EXPECT(std::isnan(out.logprob[0]) == nan, "log-probability %g, NaN among the logits: %d", double(out.logprob[0]), nan);
      }
    }
  }
}

static void logSoftmax(Run& run) {
  reserve(run);
  for (size_t vocab : {1, 5, 16, 300, 50280}) {
    for (float scale : {0.1f, 3.0f, 20.0f}) {
      const int top = int(std::min<size_t>(vocab, 20)), rows = 3;
      const std::vector<float> logits = normal(vocab * rows, scale, unsigned(vocab) + unsigned(scale));
      const std::vector<int> target = {0, int(vocab) - 1, int(vocab) / 2};
      const Out out = logProbs(run, logits, int(vocab), target, top);
      std::vector<Row> sampled;
      for (int r = 0; r < rows; r++) {
        const std::vector<float> z(logits.begin() + r * int(vocab), logits.begin() + (r + 1) * int(vocab));
        Row row;
        row.logits = z;
        row.how.top = top;
        row.how.position = unsigned(r);
        row.how.temperature = 0.7f;
        row.how.topP = 0.9f;
        sampled.push_back(row);
        const double best = *std::max_element(z.begin(), z.end());
        double sum = 0;
        for (float x : z) sum += std::exp(x - best);
        const RawReference raw(z);
        const auto check = [&](int id, float is) {
          EXPECT(sameBits(is, raw(id)), "id %d: %.9g, not the bits of %.9g", id, double(is), double(raw(id)));
          const double exact = z[size_t(id)] - best - std::log(sum);
          // In units of 2^-24: the result's own rounding; in the sum each exponent's rounding, |d| weighed by exp(d), where the mean |d| is at most
          // ln(vocab) < 11; exp itself 1.75; what the masses round away, 0.13.
          EXPECT(std::fabs(is - exact) <= 0x1p-24 * (std::fabs(exact) + 13), "id %d: %.9g, not %.9g", id, double(is), exact);
        };
        check(target[size_t(r)], out.logprob[size_t(r)]);
        std::vector<int> order(vocab);
        for (size_t i = 0; i < vocab; i++) order[i] = int(i);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return z[size_t(a)] > z[size_t(b)]; });
        for (int i = 0; i < top; i++) {
          const size_t at = size_t(r * top + i);
          EXPECT(out.topToken[at] == order[size_t(i)], "best %d is id %d, not %d", i, out.topToken[at], order[size_t(i)]);
          check(out.topToken[at], out.topLogprob[at]);
          EXPECT(out.topToken[at] != target[size_t(r)] || out.topLogprob[at] == out.logprob[size_t(r)], "another value in the list");
        }
      }
      const Out drawn = sample(run, sampled, top);
      EXPECT(drawn.topToken == out.topToken && drawn.topLogprob == out.topLogprob, "sample has other best ids or values");
      EXPECT(logProbs(run, logits, int(vocab), drawn.token, 0).logprob == drawn.logprob, "sample has another value for what it drew");
    }
  }
  const Out ties = logProbs(run, {1, 2, 2, 0, 2, -INFINITY, 1}, 7, {5}, 7);
  EXPECT((ties.topToken == std::vector<int>{1, 2, 4, 0, 6, 3, 5}), "among equals the lower id comes first");
  EXPECT(ties.logprob[0] == -INFINITY, "-inf has probability 0");
  const Out none = logProbs(run, {1, 2}, 2, {-1}, 1);
  EXPECT(none.topToken[0] == 1 && none.topLogprob[0] > -0.32f, "no target, but a list");
}

static void refusals(Run& run) {
  reserve(run);
  const auto refused = [&](const char* word, void (*change)(Row&), int topStride = 2) {
    Row row;
    row.logits = {1, 2, 3};
    change(row);
    Out out(1, size_t(topStride));
    const Status status = trySample(run, {row}, topStride, out);
    EXPECT(!status.ok() && std::strstr(status.failure().message, word), "%s: %s", word, status.ok() ? "taken" : status.failure().message);
  };
  refused("temperature -1", [](Row& r) { r.how.temperature = -1; });
  refused("temperature nan", [](Row& r) { r.how.temperature = NAN; });
  refused("topP 0", [](Row& r) { r.how.topP = 0; });
  refused("topP 1.5", [](Row& r) { r.how.topP = 1.5f; });
  refused("minP -0.1", [](Row& r) { r.how.minP = -0.1f; });
  refused("repetitionPenalty 0", [](Row& r) { r.how.repetitionPenalty = 0; });
  refused("topK -1", [](Row& r) { r.how.topK = -1; });
  refused("best 3 of 3 ids in a list of 2", [](Row& r) { r.how.top = 3; });
  refused(
      "best 4 of 3", [](Row& r) { r.how.top = 4; }, 9);
  refused("id 3 in its history", [](Row& r) { r.how.repetitionPenalty = 2, r.history = {0, 3}; });
  refused("id -1 in its history", [](Row& r) { r.how.repetitionPenalty = 2, r.history = {-1}; });
}

static void time(Run& run, bool nucleus) {
  reserve(run);
  Row row;
  row.logits = normal(kLargestVocab, 2.5f, 6);
  Sampling how = row.how;
  how.temperature = nucleus ? 1 : 0;
  how.topP = 0.92f;
  const Buffer z = put(run, row.logits), sampling = put(run, std::vector<Sampling>{how}), token = put(run, std::vector<int>{0});
  const Buffer logprob = put(run, std::vector<float>{0});
  const Sample op = {at<float>(z), at<Sampling>(sampling), at<int>(token), at<float>(logprob), nullptr, nullptr, kLargestVocab, 1, kLargestVocab, 0};
  run.measure(cost(op), 1, [&](int) { return run.ops.sample(op); });
}

static Suite suite([](Cases& cases) {
  cases.test("sample/the definition agrees with transformers on sampling.json", transformers);
  cases.test("sample/every draw is the one of the definition, whatever the shape of the logits", definition);
  cases.test("sample/100,000 draws have the distribution of the masses", distribution);
  cases.test("sample/the results of a row do not depend on its place in the batch", places);
  cases.test("sample/greedy takes the lowest id among equals, after the repetition penalty", greedy);
  cases.test("sample/a NaN or an infinity keeps the draw defined, and a NaN shows in the log-probability", strange);
  cases.test("logProbs/log-softmax of the raw logits, the best first, the same bits as in sample", logSoftmax);
  cases.test("sample/settings and ids out of range are refused", refusals);
  for (bool nucleus : {false, true}) {
    cases.bench(nucleus ? "sample/top-p 0.92 of 50,280" : "sample/greedy of 50,280", [=](Run& run) { time(run, nucleus); });
  }
});

}  // namespace
}  // namespace ewe::test

// The ops sample and logProbs against the definition, sample.h.
#include "sample.h"

#include "../model/files.h"

namespace ewe::test {
namespace {

using namespace draws;

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

static void compare(Run& run, const Batch& batch) { compare(run, batch.rows, batch.references, sample(run, batch.rows, kTop)); }

static void definition(Run& run) {
  reserve(run);
  for (const Batch& batch : batches()) compare(run, batch);
}

// Real vocabularies, and rows in which a search has much to look through: all ids equal, few values, flat, all of the mass in one id or in none.
static void wide(Run& run) {
  reserve(run);
  static const std::vector<Batch> made = [] {
    std::vector<Batch> all;
    for (size_t vocab : {50280, 100352}) {
      Batch batch;
      const auto add = [&](const std::vector<float>& logits, Sampling how, const std::vector<int>& history = {}) {
        how.seed = 77 + batch.rows.size();
        how.top = batch.rows.size() % 3 ? 0 : kTop;
        batch.rows.push_back({logits, how, history});
        batch.references.push_back(reference(batch.rows.back()));
      };
      const std::vector<float> flat = normal(vocab, 0.3f, 1), peaked = normal(vocab, 3, 2), equal(vocab, -2.5f);
      std::vector<float> two(vocab, 1), rounded = normal(vocab, 2, 3), nothing(vocab, -INFINITY);
      for (size_t i = 0; i < vocab; i += 3) two[i] = 2;
      for (float& z : rounded) z = std::round(z * 4) / 4;
      nothing[vocab - 1] = -1e38f;
      const std::vector<int> history = {5, 5, 0, int(vocab) - 1, 31, 32, 33};
      for (const auto& logits : {flat, peaked, equal, two, rounded, nothing}) {
        add(logits, {1, 0.92f, 0, 1, 0, 0, 0, 0, 0, nullptr, 0});
        add(logits, {0.7f, 0.999999f, 0, 1.2f, 0, 0, 0, 0, 1, nullptr, 0}, history);
        add(logits, {1.3f, 0.5f, 0.01f, 0.9f, 5000, 0, 0, 0, 2, nullptr, 0}, history);
        add(logits, {1, 1, 0, 1, int(vocab) - 1, 0, 0, 0, 3, nullptr, 0});
        add(logits, {1, 1, 0, 1, 50, 0, 0, 0, 4, nullptr, 0});
        add(logits, {0.01f, 0.9f, 0.2f, 1.1f, 40, 0, 0, 0, 5, nullptr, 0}, history);
        add(logits, {0, 1, 0, 1.3f, 0, 0, 0, 0, 6, nullptr, 0}, history);
      }
      all.push_back(std::move(batch));
    }
    return all;
  }();
  for (const Batch& batch : made) compare(run, batch);
}

static void shared(Run& run) {
  reserve(run);
  std::vector<Row> rows;
  std::vector<Reference> references;
  for (unsigned i = 0; i < 12; i++) {
    rows.push_back(randomRow(431, 300 + i));
    if (i > 0) rows.back().logits = rows[0].logits;
    references.push_back(reference(rows.back()));
  }
  Out out(rows.size(), kTop);
  run.check(trySample(run, rows, kTop, out, true));
  compare(run, rows, references, out);
}

static void live(Run& run) {
  if (!run.ops.records()) {  // counts of live rows are for recordings
    EXPECT(!run.ops.record(1).ok(), "a device that says it records nothing does");
    run.refused = true;
    return;
  }
  reserve(run);
  std::vector<Row> rows;
  for (unsigned i = 0; i < 4; i++) rows.push_back(randomRow(120, 500 + i));
  for (Row& row : rows) row.how.top = 3;
  const IntArray count = run.ints({2});
  Out out(rows.size(), 3);
  run.check(trySample(run, rows, 3, out, false, count.data()));
  for (size_t i = 0; i < rows.size(); i++) {
    const Reference r = reference(rows[i]);
    EXPECT(i < 2 ? out.token[i] == r.token && sameBits(out.logprob[i], r.logprob) && out.topToken[3 * i] == r.top[0]
                 : out.token[i] == -1 && out.logprob[i] == -1 && out.topToken[3 * i] == -1 && out.topLogprob[3 * i] == -1,
           "row %zu of 2 live ones: id %d, best %d", i, out.token[i], out.topToken[3 * i]);
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
  const int draws = run.ops.records() ? 10000 : 100000, batch = 1000;  // a card's are those of the definition: here a few will do
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
  // Every class expects more than 10 draws, so chi is close to a chi-square variable of classes - 1 degrees: mean that, variance twice that. Five
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
}

static void logProbsOfTies(Run& run) {
  reserve(run);
  const Out ties = logProbs(run, {1, 2, 2, 0, 2, -INFINITY, 1}, 7, {5}, 7);
  EXPECT((ties.topToken == std::vector<int>{1, 2, 4, 0, 6, 3, 5}), "among equals the lower id comes first");
  EXPECT(ties.logprob[0] == -INFINITY, "-inf has probability 0");
  const Out none = logProbs(run, {1, 2}, 2, {-1}, 1);
  EXPECT(none.topToken[0] == 1 && none.topLogprob[0] > -0.32f, "no target, but a list");
}

static void refusals(Run& run) {
  reserve(run);
  // A device that sees no settings before the launch marks the row instead, and writes no list.
  const auto refused = [&](const char* word, void (*change)(Row&), int topStride = 2) {
    Row row;
    row.logits = {1, 2, 3};
    change(row);
    Out out(1, size_t(topStride));
    const Status status = trySample(run, {row}, topStride, out);
    const bool marked = out.token[0] == -1 && std::isnan(out.logprob[0]) && out.topToken == std::vector<int>(size_t(topStride), -1);
    EXPECT(status.ok() ? marked : std::strstr(status.failure().message, word) != nullptr, "%s: %s", word,
           status.ok() ? "taken" : status.failure().message);
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
  refused("adds 1 to id 3, adjustment 0", [](Row& r) { r.adjusted = {{3, 1.f}}; });
  refused("adds 1 to id 0, adjustment 1", [](Row& r) { r.adjusted = {{1, 2.f}, {0, 1.f}}; });
  refused("adds nan to id 1, adjustment 0", [](Row& r) { r.adjusted = {{1, NAN}}; });
  refused("id -1 in its history", [](Row& r) { r.how.repetitionPenalty = 2, r.history = {-1}; });
}

static void time(Run& run, bool nucleus, int rows) {
  reserve(run);
  const int vocab = 50280;
  Sampling how = Row().how;
  how.temperature = nucleus ? 1 : 0;
  how.topP = 0.92f;
  const size_t count = size_t(rows);
  const Buffer z = put(run, normal(count * size_t(vocab), 2.5f, 6)), sampling = put(run, std::vector<Sampling>(count, how));
  const Buffer token = put(run, std::vector<int>(count)), logprob = put(run, std::vector<float>(count));
  Sample op = {};
  op.logits = at<float>(z);
  op.sampling = at<Sampling>(sampling);
  op.token = at<int>(token);
  op.logprob = at<float>(logprob);
  op.stride = op.vocab = vocab;
  op.rows = rows;
  run.measure(cost(op), 1, [&](int) { return run.ops.sample(op); });
}

static Suite suite([](Cases& cases) {
  cases.test("sample/the definition agrees with transformers on sampling.json", transformers);
  cases.test("sample/every draw is the one of the definition, whatever the shape of the logits", definition);
  cases.test("sample/the same with 50,280 and 100,352 ids, where searches look through much", wide);
  cases.test("sample/rows of one request draw from one row of logits", shared);
  cases.test("sample/rows from the live count on are neither read nor written", live);
  cases.test("sample/draws have the distribution of the masses", distribution);
  cases.test("sample/the results of a row do not depend on its place in the batch", places);
  cases.test("sample/greedy takes the lowest id among equals, after the repetition penalty", greedy);
  cases.test("sample/a NaN or an infinity keeps the draw defined, and a NaN shows in the log-probability", strange);
  cases.test("logProbs/log-softmax of the raw logits, the best first, the same bits as in sample", logSoftmax);
  cases.test("logProbs/the lower id comes first among equals, and a row may ask for no id", logProbsOfTies);
  cases.test("sample/settings and ids out of range are refused", refusals);
  for (int rows : {1, 64, 256}) {
    for (bool nucleus : {false, true}) {
      cases.bench(std::string("sample/") + (nucleus ? "top-p 0.92" : "greedy") + " of 50,280, rows " + std::to_string(rows),
                  [=](Run& run) { time(run, nucleus, rows); });
    }
  }
});

}  // namespace
}  // namespace ewe::test

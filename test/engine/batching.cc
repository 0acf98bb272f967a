// Many requests at once: each answers as it would alone, in any mix, whatever is shared, sent back or cancelled.
#include <algorithm>
#include <cstring>

#include "served.h"

namespace ewe::test {
namespace {

Ints promptOf(uint64_t kind, int common, uint64_t seed, int own) {
  Random beginning(kind), rest(seed);
  Ints tokens;
  for (int i = 0; i < common; i++) tokens.push_back(beginning.below(smallSpec().vocab));
  for (int i = 0; i < own || tokens.empty(); i++) tokens.push_back(rest.below(smallSpec().vocab));
  return tokens;
}

Request randomRequest(Random& random) {
  Request r{};
  r.tokens = promptOf(uint64_t(random.below(3)), random.below(60), random.next(), random.below(12));
  r.maxNewTokens = 1 + random.below(12);
  r.n = random.below(5) ? 1 : 1 + random.below(4);
  r.temperature = random.below(4) ? 0.9f : 0.0f;
  r.topP = random.below(2) ? 1.0f : 0.8f;
  r.repetitionPenalty = random.below(3) ? 1.0f : 1.3f;
  r.seed = random.next();
  r.presencePenalty = random.below(4) ? 0 : 0.6f;
  r.frequencyPenalty = random.below(4) ? 0 : 0.3f;
  for (int id = random.below(9); id < smallSpec().vocab && !random.below(4); id += 7) r.logitBias.push_back({id, float(random.normal())});
  r.logprobs = 2;
  r.endIds = {random.below(smallSpec().vocab)};
  r.priority = random.below(8) ? 0 : random.below(3);
  return r;
}

// The first `count` numbers, bit for bit.
bool sameBits(const Floats& a, const Floats& b, size_t count) {
  return count <= a.size() && count <= b.size() && (count == 0 || std::memcmp(a.data(), b.data(), count * sizeof(float)) == 0);
}

bool sameAnswer(const Answer& a, const Answer& b) {
  return a.tokens == b.tokens && a.text == b.text && a.finish == b.finish && a.topTokens == b.topTokens && a.logprobs.size() == b.logprobs.size() &&
         a.topLogprobs.size() == b.topLogprobs.size() && sameBits(a.logprobs, b.logprobs, a.logprobs.size()) &&
         sameBits(a.topLogprobs, b.topLogprobs, a.topLogprobs.size()) && a.afterEnd == 0 && b.afterEnd == 0;
}

// A cancelled answer is a beginning of the whole one.
bool beginningOf(const Answer& a, const Answer& whole) {
  return a.tokens.size() <= whole.tokens.size() && std::equal(a.tokens.begin(), a.tokens.end(), whole.tokens.begin()) &&
         sameBits(a.logprobs, whole.logprobs, a.logprobs.size());
}

EngineOptions alone(DType type) {
  EngineOptions o{type, 128, 1, 16, 0, 256};
  o.prefixCache = false;
  return o;
}

// All of them one after another, then in random mixes with random steps, pages and options.
void mixes(Run& run, DType type) {
  if (!run.needs(type)) return;
  const OwnModel model = randomModel(smallSpec(), DType::float32, 31);
  std::vector<Request> requests;
  Random chosen(7);
  for (int i = 0; i < 24; i++) requests.push_back(randomRequest(chosen));
  std::vector<std::vector<Answer>> whole;
  {
    Served one(run, model.checkpoint, alone(type));
    for (Request r : requests) {
      r.priority = 0;
      whole.push_back(one.generate(r));
    }
  }
  const Ints scored = promptOf(1, 50, 5, 20);
  Score::Result expected;
  {
    Served one(run, model.checkpoint, alone(type));
    expected = one.score(scored, 3);
  }
  EngineStats seen{};
  for (int round = 0; round < run.rounds; round++) {
    Random random(run.seed * 1000003 + uint64_t(round));
    EngineOptions o = alone(type);
    o.maxBatch = 1 + random.below(9);
    o.stepRows = 1 + random.below(3) * random.below(60);
    o.pageSize = random.below(2) ? 16 : 32;
    o.pages = 128 / o.pageSize + random.below(3);
    o.prefixCache = random.below(3) > 0;
    o.reserve = random.below(4) == 0;
    o.recordSteps = random.below(2) > 0;
    const std::string what = "seed " + std::to_string(run.seed) + ", round " + std::to_string(round) + " (" + std::to_string(o.maxBatch) +
                             " sequences, " + std::to_string(o.stepRows) + " rows, " + std::to_string(o.pages) + " pages of " +
                             std::to_string(o.pageSize) + (o.prefixCache ? ", shared" : "") + (o.reserve ? ", reserved)" : ")");
    Served served(run, model.checkpoint, o);
    Ints order;
    for (int i = 0; i < int(requests.size()); i++) order.push_back(i);
    for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[size_t(random.below(int(i) + 1))]);
    std::map<int, int> ids;  // of each request
    std::set<int> cancelled;
    const int atOnce = 8 + random.below(17);
    int waited = 0;
    std::vector<std::vector<Answer>> answers(requests.size());
    for (int i = 0; i < int(order.size()); i++) {
      ids[order[size_t(i)]] = served.submit(requests[size_t(order[size_t(i)])]);
      if (random.below(12) == 0) {
        const int victim = order[size_t(random.below(i + 1))];
        served.engine().cancel(ids[victim]);
        cancelled.insert(victim);
      }
      for (; i - waited >= atOnce; waited++)
        answers[size_t(order[size_t(waited)])] = served.wait(ids[order[size_t(waited)]], requests[size_t(order[size_t(waited)])].n, false);
    }
    const Score::Result score = served.score(scored, 3);
    for (; waited < int(order.size()); waited++)
      answers[size_t(order[size_t(waited)])] = served.wait(ids[order[size_t(waited)]], requests[size_t(order[size_t(waited)])].n, false);
    for (size_t i = 0; i < requests.size(); i++) {
      for (size_t j = 0; j < whole[i].size(); j++) {
        const Answer& a = answers[i][j];
        const bool ok = a.finish == Finish::cancelled && cancelled.count(int(i)) ? beginningOf(a, whole[i][j]) : sameAnswer(a, whole[i][j]);
        run.expect(ok, what + ": sample " + std::to_string(j) + " of request " + std::to_string(i) + " is not what it is alone " + a.failure);
      }
    }
    run.same(what + ": scores", score.logprobs, expected.logprobs);
    served.rest();
    const EngineStats stats = served.engine().stats();
    run.expect(stats.pagesUsed == 0 && stats.running == 0 && stats.queued == 0, what + ": something is still held");
    run.expect(stats.finished + stats.cancelled == int64_t(requests.size()) && stats.failed == 0, what + ": requests are counted");
    run.expect(!o.reserve || stats.preempted <= 24, what + ": with reserved pages only priority sends back");
    seen.preempted += stats.preempted;
    seen.reusedTokens += stats.reusedTokens;
    seen.cancelled += stats.cancelled;
  }
  // How often depends on when requests come in, so only many mixes are asked.
  run.expect(run.rounds < 50 || (seen.preempted > 0 && seen.reusedTokens > 100),
             "too little happens: " + std::to_string(seen.preempted) + " sent back, " + std::to_string(seen.reusedTokens) + " tokens found");
}

// What is bounded is refused with its own error, and what is late is told.
void bounds(Run& run) {
  const DType type = run.ops.multiplies(DType::float32) ? DType::float32 : DType::float16;
  const OwnModel model = randomModel(smallSpec(), DType::float32, 32);
  EngineOptions o = alone(type);
  o.maxQueue = 3;
  Served served(run, model.checkpoint, o);
  constexpr int all = 1 << 30;
  std::atomic<int> free{0};  // steps that may go on
  served.witness.atStep = [&](int step) {
    while (step > free) std::this_thread::yield();
    return Status();
  };
  Random random(8);
  Request r = randomRequest(random);
  r.n = 1;
  r.endIds = {};
  r.maxNewTokens = 6;
  std::vector<int> ids = {served.submit(r)};
  while (served.witness.steps == 0) std::this_thread::yield();  // it runs, and holds the step up
  for (int i = 0; i < 3; i++) ids.push_back(served.submit(r));
  int id = 0;
  const Status full = served.engine().submit(r, &id);
  run.expect(!full.ok() && full.failure().kind == Kind::queue, "the fourth that waits is refused");
  free = all;
  for (const int one : ids) run.expect(served.wait(one, 1)[0].finish == Finish::length, "those that were taken are served");
  run.expect(served.generate(r)[0].finish == Finish::length, "then there is room again");

  // Samples that wait for places are not requests that wait: they leave the queue's room to others.
  const int steps = served.witness.steps;
  free = steps + 1;
  Request several = r;
  several.n = 4;
  ids = {served.submit(several)};
  while (served.witness.steps < steps + 2) std::this_thread::yield();  // three of them wait for the first
  for (int i = 0; i < 3; i++) ids.push_back(served.submit(r));
  run.expect(!served.engine().submit(r, &id).ok(), "there is room for three");
  free = all;
  for (size_t i = 0; i < ids.size(); i++) run.expect(served.wait(ids[i], i ? 1 : 4)[0].finish == Finish::length, "beside samples that waited");

  r.deadline = 1;  // long ago
  const Answer late = served.generate(r)[0];
  run.expect(late.finish == Finish::error && late.tokens.empty() && late.failure.find("deadline") != std::string::npos, "a deadline that has passed");
  r.deadline =
      std::chrono::duration_cast<std::chrono::nanoseconds>((std::chrono::steady_clock::now() + std::chrono::hours(1)).time_since_epoch()).count();
  run.expect(served.generate(r)[0].finish == Finish::length, "a deadline that is far");
}

// The best token by the logits of all tokens so far, after what OpenAI's penalties and biases say.
void adjustments(Run& run) {
  if (!run.needs(DType::float32)) return;
  const OwnModel model = randomModel(smallSpec(), DType::float32, 34);
  Served served(run, model.checkpoint, alone(DType::float32));
  Random random(10);
  for (int i = 0; i < 6; i++) {
    Request r{};
    r.tokens = promptOf(1, 8, random.next(), 5);
    r.maxNewTokens = 15;
    r.n = 1;
    r.topP = r.repetitionPenalty = 1;
    r.logprobs = -1;
    if (i % 2) r.presencePenalty = float(random.uniform() * 2 - 0.5);
    if (i % 3) r.frequencyPenalty = float(random.uniform());
    for (int id = 0; id < smallSpec().vocab && i % 4 > 0; id += 1 + random.below(9)) r.logitBias.push_back({id, float(random.normal())});
    const Ints tokens = served.generate(r)[0].tokens;
    Ints all = r.tokens;
    std::map<int, int> times;
    for (size_t at = 0; at < tokens.size(); at++) {
      const Floats logits = served.logits(all);
      Floats adjusted(logits.end() - smallSpec().vocab, logits.end());
      std::map<int, float> amounts;
      for (const auto& [id, bias] : r.logitBias) amounts[id] = bias;
      for (const auto& [id, count] : times) amounts[id] -= r.presencePenalty + r.frequencyPenalty * float(count);
      for (const auto& [id, amount] : amounts) adjusted[size_t(id)] += amount;
      const int best = int(std::max_element(adjusted.begin(), adjusted.end()) - adjusted.begin());
      run.expect(tokens[at] == best, "request " + std::to_string(i) + ", token " + std::to_string(at) + ": " + std::to_string(tokens[at]) + ", not " +
                                         std::to_string(best));
      times[tokens[at]]++;
      all.push_back(tokens[at]);
    }
  }
}

// Many requests leave memory, pages and counts where they were.
void steady(Run& run) {
  const DType type = run.ops.multiplies(DType::float32) ? DType::float32 : DType::float16;
  const OwnModel model = randomModel(smallSpec(), DType::float32, 33);
  EngineOptions o{type, 128, 8, 16, 40, 64};
  Served served(run, model.checkpoint, o);
  const int allocations = served.witness.allocations;
  Random random(9);
  std::vector<std::pair<int, int>> open;
  for (int i = 0; i < 60; i++) {
    const Request r = randomRequest(random);
    open.push_back({served.submit(r), r.n});
    if (open.size() < 12) continue;
    (void)served.wait(open.front().first, open.front().second, false);
    open.erase(open.begin());
  }
  for (const auto& [id, n] : open) (void)served.wait(id, n, false);
  served.rest();
  const EngineStats stats = served.engine().stats();
  run.expect(stats.pagesUsed == 0 && stats.finished == 60 && stats.queued == 0 && stats.running == 0, "all is given back");
  run.expect(stats.pagesCached <= 40 && stats.reusedTokens > 60, "beginnings are kept, in the pages there are");
  run.expect(served.witness.allocations == allocations, "no memory of the device is asked for after loading");
}

const Suite suite([](Cases& cases) {
  for (const DType type : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
    cases.test(std::string("batching/random mixes answer as each alone, ") + nameOf(type), [type](Run& run) { mixes(run, type); });
  }
  cases.test("batching/penalties and biases are OpenAI's", adjustments);
  cases.test("batching/a bounded queue, and deadlines", bounds);
  cases.test("batching/many requests leave nothing behind", steady);
});

}  // namespace
}  // namespace ewe::test

// The engine on a small random model: the same bits however the work is cut, every page given back, and an end when one is asked for.
#include "engine/generation.h"

#include <malloc.h>

#include <cstring>

#include "served.h"

namespace ewe::test {

static Ints prompt(int length, uint64_t seed = 1) {
  Random random(seed);
  Ints tokens(static_cast<size_t>(length));
  for (int& token : tokens) token = random.below(smallSpec().vocab);
  return tokens;
}

static Request request(int promptLength, int maxNewTokens, int n) {
  Request r{};
  r.tokens = prompt(promptLength);
  r.maxNewTokens = maxNewTokens;
  r.n = n;
  r.temperature = 0.9f;
  r.topP = 1;
  r.repetitionPenalty = 1.1f;
  r.seed = 5;
  r.logprobs = 3;
  return r;
}

// Nothing is shared between requests, so that steps can be counted; test/engine/batching.cc shares.
static EngineOptions options(DType type) {
  EngineOptions o{type, 128, 8, 16, 0, 256};
  o.prefixCache = false;
  return o;
}
// In a dtype that the device multiplies, where it does not matter which.
static EngineOptions options(const Run& run) { return options(run.ops.multiplies(DType::float32) ? DType::float32 : DType::float16); }

static bool sameBits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Everything of `part` as in `whole`.
static bool sameBits(const Bits& part, const Bits& whole) {
  for (const auto& [key, logits] : part) {
    const auto other = whole.find(key);
    if (other == whole.end() || !sameBits(logits, other->second)) return false;
  }
  return !part.empty();
}

static bool sameAnswer(const Answer& a, const Answer& b) {
  return !a.tokens.empty() && a.tokens == b.tokens && a.text == b.text && a.finish == b.finish && a.topTokens == b.topTokens &&
         sameBits(a.logprobs, b.logprobs) && sameBits(a.topLogprobs, b.topLogprobs) && a.afterEnd == 0 && b.afterEnd == 0;
}

struct Produced {
  std::vector<Answer> answers;
  Bits bits;
  Floats logits;
  Score::Result score;
};

static Produced produce(Run& run, const OwnModel& model, const EngineOptions& o, const Request& r) {
  Served served(run, model.checkpoint, o);
  served.witness.keepBits = true;
  Produced p;
  p.answers = served.generate(r);
  p.bits = served.witness.drawn;
  p.logits = served.logits(prompt(50));
  p.score = served.score(prompt(20), 4);
  return p;
}

// 45 prompt tokens cross pages of 16, 32 and 64 differently; the last page is part-filled, so that samples copy it.
static void cuts(Run& run, DType type) {
  if (!run.needs(type)) return;
  const OwnModel model = randomModel(smallSpec(), DType::float32, 21);
  const Request r = request(45, 9, 3);
  const Produced whole = produce(run, model, options(type), r);
  run.expect(whole.answers.size() == 3 && whole.answers[0].tokens.size() == 9 && whole.answers[0].finish == Finish::length,
             "three samples of 9 tokens");
  run.expect(whole.answers[0].tokens != whole.answers[1].tokens, "samples differ");
  run.expect(whole.bits.size() == 3 * 9, "logits of every draw were seen");
  auto compare = [&](const EngineOptions& o, const std::string& what) {
    const Produced other = produce(run, model, o, r);
    run.expect(sameBits(other.bits, whole.bits) && other.bits.size() == whole.bits.size(), what + ": logits of generated tokens differ");
    for (size_t i = 0; i < 3; i++) run.expect(sameAnswer(other.answers[i], whole.answers[i]), what + ": sample " + std::to_string(i) + " differs");
    run.expect(sameBits(other.logits, whole.logits), what + ": logits of the prompt differ");
    run.expect(sameBits(other.score.logprobs, whole.score.logprobs) && sameBits(other.score.topLogprobs, whole.score.topLogprobs) &&
                   other.score.topTokens == whole.score.topTokens && other.score.logprobs.size() == 19,
               what + ": scores differ");
  };
  for (int stepRows : {1, 3, 16}) {
    EngineOptions o = options(type);
    o.stepRows = stepRows;
    compare(o, "steps of " + std::to_string(stepRows) + " rows");
  }
  for (int pageSize : {32, 64}) {
    EngineOptions o = options(type);
    o.pageSize = pageSize;
    compare(o, "pages of " + std::to_string(pageSize) + " tokens");
  }
  for (int maxBatch : {1, 2}) {
    EngineOptions o = options(type);
    o.maxBatch = maxBatch;
    compare(o, "batches of " + std::to_string(maxBatch));
  }
  // The other sets and numbers of threads must give these bits as well (bfloat16 products in an instruction of their own excepted).
  Floats all = whole.logits;
  for (const auto& [key, logits] : whole.bits) all.insert(all.end(), logits.begin(), logits.end());
  run.results.push_back({"logits", all, type != DType::bfloat16});
}

// Sample i is the same whether it is drawn alone or among others, all at once or a few at a time, with ends that come at different times.
static void batches(Run& run) {
  const OwnModel model = randomModel(smallSpec(), DType::float32, 22);
  // A short sample has one page of its own, a long one two: a page given back too early would be taken while others read it.
  Request r = request(40, 14, 7);
  r.endIds = {3, 17, 40, 50, 60};
  const Produced whole = produce(run, model, options(run), r);
  size_t shortest = 99, longest = 0;
  for (const Answer& a : whole.answers) {
    shortest = std::min(shortest, a.tokens.size());
    longest = std::max(longest, a.tokens.size());
  }
  run.expect(shortest < longest, "samples end at different times");
  for (const auto& [n, maxBatch] : std::vector<std::pair<int, int>>{{1, 1}, {2, 1}, {2, 8}, {7, 1}, {7, 2}, {7, 3}}) {
    EngineOptions o = options(run);
    o.maxBatch = maxBatch;
    r.n = n;
    const Produced part = produce(run, model, o, r);
    const std::string what = std::to_string(n) + " samples in batches of " + std::to_string(maxBatch);
    run.expect(sameBits(part.bits, whole.bits), what + ": logits differ");
    for (int i = 0; i < n; i++)
      run.expect(sameAnswer(part.answers[size_t(i)], whole.answers[size_t(i)]), what + ": sample " + std::to_string(i) + " differs");
  }
}

// The same request after any other gives the same, and the pages are back after each end of a request.
static void pagesReturn(Run& run) {
  const OwnModel model = randomModel(smallSpec(), DType::float32, 23);
  Served served(run, model.checkpoint, options(run));
  const Request r = request(37, 12, 3);
  const std::vector<Answer> first = served.generate(r);
  auto after = [&](const std::string& what) {
    run.expect(served.engine().stats().pagesUsed == 0, what + ": " + std::to_string(served.engine().stats().pagesUsed) + " pages are still in use");
    const std::vector<Answer> again = served.generate(r);
    for (size_t i = 0; i < 3; i++) run.expect(sameAnswer(again[i], first[i]), what + ": the next request differs");
  };
  after("finished");

  // A device that fails in each step in turn, from the first of the prompt on.
  for (int failing = 1; failing <= 6; failing++) {
    served.witness.steps = 0;
    served.witness.atStep = [failing](int step) {
      return step == failing ? Status::fail(Kind::device, "the device broke in step %d", step) : Status();
    };
    const std::vector<Answer> broken = served.generate(r);
    served.witness.atStep = nullptr;
    for (const Answer& a : broken) {
      run.expect(
          a.finish == Finish::error && a.failure == "the device broke in step " + std::to_string(failing) && int(a.tokens.size()) == failing - 1,
          "a broken device ends each sample with its message");
    }
    after("failed in step " + std::to_string(failing));
  }

  // The prompt takes 3 pages, and each sample one of its own: they wait for each other, and come to the same.
  EngineOptions few = options(run);
  few.pages = 4;
  Served small(run, model.checkpoint, few);
  const std::vector<Answer> waited = small.generate(r);
  for (size_t i = 0; i < 3; i++) run.expect(sameAnswer(waited[i], first[i]), "with too few pages for all samples at once: another answer");
  run.expect(small.engine().stats().pagesUsed == 0, "pages are still in use");
  // What would not fit even alone is refused at once.
  std::string failure;
  small.logits(prompt(70), &failure);
  run.expect(failure.find("70 tokens need 5 pages of the cache, which has 4") == 0, "logits that do not fit: " + failure);
  int id = 0;
  const Status refused = small.engine().submit(request(37, 29, 1), &id);
  run.expect(!refused.ok() && refused.failure().kind == Kind::context, "a request that does not fit");
  run.expect(small.generate(request(37, 28, 1))[0].finish == Finish::length, "a request that fits just so is served");
}

static void cancelling(Run& run) {
  const OwnModel model = randomModel(smallSpec(), DType::float32, 24);
  EngineOptions o = options(run);
  o.stepRows = 16;
  Served served(run, model.checkpoint, o);
  // Three steps for the prompt, then one for each token but the first.
  for (int during : {1, 2, 3, 4, 8}) {
    for (int n : {1, 3}) {
      served.witness.steps = 0;
      std::atomic<int> id{0};
      served.witness.atStep = [&](int step) {
        while (id == 0) std::this_thread::yield();
        if (step == during) served.engine().cancel(id);
        return Status();
      };
      const Request r = request(45, 60, n);
      id = served.submit(r);
      const std::vector<Answer> answers = served.wait(id, n);
      served.witness.atStep = nullptr;
      // The step that is under way ends: it may bring one token.
      const size_t tokens = during < 3 ? 0 : during == 3 ? 1 : size_t(during - 2);
      for (const Answer& a : answers) {
        run.expect(a.finish == Finish::cancelled && a.failure.empty() && a.afterEnd == 0, "a cancelled sample ends as cancelled, once");
        run.expect(a.tokens.size() == tokens, "cancelled in step " + std::to_string(during) + ": " + std::to_string(a.tokens.size()) +
                                                  " tokens, expected " + std::to_string(tokens));
      }
      run.expect(served.witness.steps == during, "no step after the one under way");
      run.expect(served.engine().stats().pagesUsed == 0, "cancelled: pages are still in use");
    }
  }

  // One that waits, and ones that do not exist.
  o.maxBatch = 1;
  Served alone(run, model.checkpoint, o);
  std::atomic<int> second{0};
  alone.witness.atStep = [&](int step) {
    while (second == 0) std::this_thread::yield();
    if (step == 5) alone.engine().cancel(second);
    return Status();
  };
  const int first = alone.submit(request(45, 20, 1));
  second = alone.submit(request(45, 20, 2));
  const std::vector<Answer> whole = alone.wait(first, 1);
  for (const Answer& a : alone.wait(second, 2))
    run.expect(a.finish == Finish::cancelled && a.tokens.empty(), "a waiting request that is cancelled brings nothing");
  run.expect(whole[0].tokens.size() == 20 && alone.witness.steps == 3 + 19, "the one before it is served, and no step is made for it");
  for (int id : {0, -1, first, second.load(), 1 << 30}) alone.engine().cancel(id);
  alone.witness.atStep = nullptr;
  run.expect(alone.generate(request(45, 20, 1))[0].tokens == whole[0].tokens, "cancelling what is over changes nothing");
}

// stop() ends the step under way after the layer it is in, and everything that waits.
static void stopping(Run& run) {
  Spec deep = smallSpec();
  deep.layers = 6;
  const OwnModel model = randomModel(deep, DType::float32, 25);
  EngineOptions o = options(run);
  o.stepRows = 16;
  for (int during : {1, 2, 3, 4, 9}) {
    Served served(run, model.checkpoint, o);
    std::atomic<bool> submitted{false};
    std::atomic<int> stopped{0};
    served.witness.atLayer = [&] {
      while (!submitted) std::this_thread::yield();
      if (served.witness.steps != during || stopped++) return;
      served.engine().stop();
    };
    const int id = served.submit(request(45, 60, 2)), waiting = served.submit(request(5, 5, 1));
    Kind logits = Kind::ok, score = Kind::ok;
    int other = 0;
    run.check(
        served.engine().submit(LogitsOf{prompt(9), [&](Status status, Floats) { logits = status.ok() ? Kind::ok : status.failure().kind; }}, &other));
    run.check(served.engine().submit(
        Score{prompt(9), 0, [&](Status status, Score::Result) { score = status.ok() ? Kind::ok : status.failure().kind; }}, &other));
    submitted = true;
    for (const Answer& a : served.wait(id, 2)) {
      run.expect(a.finish == Finish::cancelled && int(a.tokens.size()) == std::max(0, during - 3),
                 "stopped: a sample ends as cancelled, with what it had");
    }
    // In step 4 the others have their prompts in part, in step 9 they are over.
    const bool over = during == 9;
    run.expect(served.wait(waiting, 1)[0].finish == (over ? Finish::length : Finish::cancelled), "stopped: what waits is cancelled");
    const auto begin = std::chrono::steady_clock::now();
    served.engine().join();
    run.expect(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5), "joined promptly");
    run.expect(logits == (over ? Kind::ok : Kind::disposed) && score == logits, "waiting scores and logits are refused");
    run.expect(served.witness.layers == (during - 1) * deep.layers + 1, "the step ends after the layer it is in");
    run.expect(served.witness.held == 0, "all memory is given back");
  }
}

// A hundred on each set with each number of threads: more than a thousand where all sets are there.
static void manyShort(Run& run) {
  const OwnModel model = randomModel(smallSpec(), DType::float32, 26);
  EngineOptions o = options(run);
  o.maxBatch = 3;
  o.stepRows = 8;
  Served served(run, model.checkpoint, o);
  const int allocations = served.witness.allocations, reserved = served.witness.reserved;
  Random random(6);
  size_t heapBefore = 0;
  int64_t tokens = 0, prompts = 0;
  for (int i = 0; i < 100; i++) {
    Request r = request(1 + random.below(20), 1 + random.below(4), 1 + random.below(4));
    r.temperature = random.below(3) ? 1.0f : 0.0f;
    r.topK = random.below(2) * 5;
    r.repetitionPenalty = random.below(2) ? 1.2f : 1.0f;
    r.endIds = {random.below(70)};
    r.seed = random.next();
    r.tokens = prompt(int(r.tokens.size()), random.next());
    const std::vector<Answer> answers = served.generate(r);
    prompts += int64_t(r.tokens.size());
    for (const Answer& a : answers) {
      tokens += int64_t(a.tokens.size());
      const bool ended =
          a.finish == Finish::stop ? a.tokens.back() == r.endIds[0] : a.finish == Finish::length && int(a.tokens.size()) == r.maxNewTokens;
      if (!ended) run.expect(false, "request " + std::to_string(i) + " ended for no reason");
    }
    if (served.engine().stats().pagesUsed != 0) run.expect(false, "pages are in use after request " + std::to_string(i));
    if (i == 30) heapBefore = mallinfo2().uordblks;
  }
  const size_t heap = mallinfo2().uordblks;
  run.expect(heap < heapBefore + (64 << 10),
             "the heap grew from " + std::to_string(heapBefore) + " to " + std::to_string(heap) + " bytes over 70 requests");
  const EngineStats stats = served.engine().stats();
  run.expect(served.witness.allocations == allocations && served.witness.reserved == reserved && allocations == 5,
             "no device memory is asked for after loading");
  run.expect(stats.generatedTokens == tokens && stats.promptTokens == prompts && stats.queued == 0 && stats.running == 0, "tokens are counted");
  run.expect(stats.steps == served.witness.steps, "steps are counted");
}

static void loadFails(Run& run) {
  OwnModel model = randomModel(smallSpec(), DType::float32, 27);
  model.checkpoint.placements.pop_back();
  model.checkpoint.placements.pop_back();
  Served served(run, model.checkpoint, options(run));
  run.expect(served.loadFailure().find("is missing") != std::string::npos, "the failure is reported: " + served.loadFailure());
  run.expect(served.generate(request(5, 5, 2))[1].finish == Finish::cancelled, "nothing is served afterwards, but all is answered");
  served.engine().stop();
  served.engine().join();
  run.expect(served.witness.held == 0, "all memory is given back");
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16}) {
    cases.test(std::string("generation/same bits however cut, ") + nameOf(type), [=](Run& run) { cuts(run, type); });
  }
  cases.test("generation/same bits in any batch", batches);
  cases.test("generation/pages return, whatever happens", pagesReturn);
  cases.test("generation/cancelling", cancelling);
  cases.test("generation/stopping", stopping);
  cases.test("generation/many short requests", manyShort);
  cases.test("generation/a load that fails", loadFails);
});

}  // namespace ewe::test

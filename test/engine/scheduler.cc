// The scheduler and the pages against a cache that is played: every page remembers which token of which class each of its rows was computed from, and
// what stood before it. So a step that reads a row that is not there, or writes one that another reads, is seen at once.
#include "engine/scheduler.h"

#include <algorithm>
#include <memory>

#include "cases.h"

namespace ewe::test {
namespace {

struct World {
  int pageSize, pages, sequences, rows;
  bool reserve, shares;  // shares: one space for all, else one for each
  int prompts;           // kinds of beginnings
};

// What a row of a sequence is: its token, its class and all rows before it.
uint64_t rowOf(uint64_t before, int token, bool prompt) {
  uint64_t z = before * 0x9e3779b97f4a7c15u + uint64_t(token) * 2 + prompt + 1;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  return z ^ (z >> 27);
}
uint64_t drawOf(uint64_t row) { return row % 97; }

struct Asked : Sequence {
  uint64_t seed;
  int wanted;  // tokens to draw
  bool over = false;
  int sentBack = 0;
};

class Game {
 public:
  Game(Run& run, const World& world, uint64_t seed)
      : run_(run),
        w_(world),
        random_(seed),
        pages_(world.pages, world.pageSize),
        scheduler_(pages_, world.pageSize, {world.sequences, world.rows, world.reserve}),
        cache_(size_t(world.pages), std::vector<uint64_t>(size_t(world.pageSize), 0)) {}

  int64_t steps = 0, preempted = 0, reused = 0, finished = 0, cancelled = 0;
  bool ok = true;

  void play(int requests) {
    int coming = requests;
    while (ok && (coming > 0 || !asked_.empty())) {
      while (coming > 0 && random_.below(3) == 0) ask(), coming--;
      if (random_.below(25) == 0 && !asked_.empty()) {
        cancelled++;
        end(size_t(random_.below(int(asked_.size()))));
      }
      step();
      if (steps > 40000) fail("it does not come to an end");
    }
    if (!ok) return;
    if (pages_.used() != 0 || scheduler_.running() != 0 || scheduler_.waiting() != 0) fail("something is still held");
  }

 private:
  void fail(const std::string& what) {
    if (ok) run_.expect(false, what);
    ok = false;
  }

  void ask() {
    auto a = std::make_unique<Asked>();
    const int most = std::min(w_.pages * w_.pageSize, 40);
    // Beginnings that many have, of any length, and something of their own.
    Random beginning(uint64_t(random_.below(w_.prompts)));
    const int common = random_.below(most / 2 + 1), own = random_.below(6);
    for (int i = 0; i < common; i++) a->tokens.push_back(beginning.below(3));
    for (int i = 0; i < own || a->tokens.empty(); i++) a->tokens.push_back(random_.below(3));
    a->prompt = int(a->tokens.size());
    a->everyRow = random_.below(8) == 0;
    a->wanted = a->everyRow ? 0 : 1 + random_.below(std::max(1, most - a->prompt));
    a->most = a->prompt + a->wanted;
    a->priority = random_.below(10) == 0 ? random_.below(3) : 0;
    a->order = order_++;
    a->space = w_.shares ? 0 : uint64_t(a->order) + 1;
    if (a->most > w_.pages * w_.pageSize) a->wanted = 1, a->most = a->prompt + 1;
    scheduler_.add(*a);
    asked_.push_back(std::move(a));
  }

  void end(size_t at) {
    scheduler_.remove(*asked_[at]);
    if (!asked_[at]->pages.empty() || asked_[at]->slot >= 0) fail("who is gone holds pages");
    asked_.erase(asked_.begin() + long(at));
  }

  uint64_t& row(const Sequence& s, int position) { return cache_[size_t(s.pages[size_t(position / w_.pageSize)])][size_t(position % w_.pageSize)]; }
  uint64_t rowsBefore(const Sequence& s, int position) {
    uint64_t before = 0;
    for (int i = 0; i < position; i++) {
      before = rowOf(before, s.tokens[size_t(i)], i < s.prompt);
      if (row(s, i) != before) fail("row " + std::to_string(i) + " of a sequence is not what it computed");
    }
    return before;
  }

  void step() {
    const StepPlan step = scheduler_.plan();
    steps++;
    preempted += step.preempted;
    reused += step.reused;
    if (step.shares.empty() && scheduler_.running() + scheduler_.waiting() > 0) return fail("nothing is done though something waits");
    if (random_.below(50) == 0) {  // a device that fails: nothing of it counts, and who took part is told
      scheduler_.failed();
      std::set<const Sequence*> lost;
      for (const Share& share : step.shares) lost.insert(share.sequence);
      for (size_t i = asked_.size(); i-- > 0;)
        if (lost.count(asked_[i].get())) end(i);
      return;
    }
    for (const auto& [from, to] : step.copies) cache_[size_t(to)] = cache_[size_t(from)];
    check(step);
    std::vector<uint64_t> ends;
    for (const Share& share : step.shares) {
      const Sequence& s = *share.sequence;
      uint64_t before = rowsBefore(s, s.computed);
      for (int i = 0; i < share.count; i++) {
        before = rowOf(before, s.tokens[size_t(s.computed + i)], share.prompt);
        row(s, s.computed + i) = before;
      }
      ends.push_back(before);
    }
    // All have been written: nobody's rows may have been overwritten by another's.
    for (const Share& share : step.shares) (void)rowsBefore(*share.sequence, share.sequence->computed + share.count);
    scheduler_.done();
    for (size_t i = 0; i < step.shares.size(); i++) {
      auto& a = static_cast<Asked&>(*step.shares[i].sequence);
      if (!step.shares[i].last) continue;
      if (int(a.tokens.size()) < a.most) a.tokens.push_back(int(drawOf(ends[i])));
      a.over = int(a.tokens.size()) == a.most;
    }
    for (size_t i = asked_.size(); i-- > 0;) {
      if (!asked_[i]->over) continue;
      alone(*asked_[i]);
      end(i);
      finished++;
    }
  }

  void check(const StepPlan& step) {
    int rows = 0;
    bool generated = false;
    std::set<int> slots, written;
    for (const Share& share : step.shares) {
      const Sequence& s = *share.sequence;
      rows += share.count;
      if (share.count < 1 || share.count > s.left()) fail("a share of no tokens, or of more than there are");
      if (share.prompt && generated) fail("a prompt comes after generated rows");
      generated = generated || !share.prompt;
      if (share.prompt != (s.computed < s.prompt) || (share.prompt && s.computed + share.count > s.prompt)) fail("a share of two classes");
      if (share.last != (share.count == s.left())) fail("last");
      if (s.slot < 0 || s.slot >= w_.sequences || !slots.insert(s.slot).second) fail("two sequences have one slot");
      if (int(s.pages.size()) * w_.pageSize < s.computed + share.count) fail("a share beyond its pages");
      for (int i = s.computed / w_.pageSize; i <= (s.computed + share.count - 1) / w_.pageSize; i++)
        if (!written.insert(s.pages[size_t(i)]).second) fail("two sequences write into one page");
    }
    for (const auto& a : asked_) {
      for (const int page : a->pages) {
        const bool own = written.count(page) > 0;
        const int first = int(std::find(a->pages.begin(), a->pages.end(), page) - a->pages.begin()) * w_.pageSize;
        const bool writes = std::any_of(step.shares.begin(), step.shares.end(), [&](const Share& share) { return share.sequence == a.get(); });
        if (own && !(writes && first + w_.pageSize > a->computed)) fail("a page is written that another reads");
      }
    }
    if (rows != step.rows || rows > std::max(w_.rows, w_.sequences) || int(step.shares.size()) > w_.sequences)
      fail("a step of too many rows or sequences");
    if (w_.reserve && step.preempted > 0 && !prioritised()) fail("with reserved pages nobody is sent back");
  }
  bool prioritised() const {
    return std::any_of(asked_.begin(), asked_.end(), [](const auto& a) { return a->priority > 0; });
  }

  // Drew what it would have drawn alone.
  void alone(const Asked& a) {
    uint64_t before = 0;
    for (int i = 0; i < int(a.tokens.size()); i++) {
      if (i >= a.prompt && a.tokens[size_t(i)] != int(drawOf(before))) return fail("a sequence drew what it would not have drawn alone");
      before = rowOf(before, a.tokens[size_t(i)], i < a.prompt);
    }
  }

  Run& run_;
  const World w_;
  Random random_;
  Pages pages_;
  Scheduler scheduler_;
  std::vector<std::vector<uint64_t>> cache_;
  std::vector<std::unique_ptr<Asked>> asked_;
  int64_t order_ = 0;
};

// Thousands of random runs; the seed of one that fails is in its name.
void randomRuns(Run& run) {
  int64_t games = 0, preempted = 0, reused = 0, finished = 0, cancelled = 0;
  for (uint64_t seed = 1; seed <= 3000 && run.failures.empty(); seed++) {
    Random random(seed);
    World w{};
    w.pageSize = 1 << random.below(5);
    w.pages = (40 + w.pageSize - 1) / w.pageSize + random.below(1 + 120 / w.pageSize);
    w.sequences = 1 + random.below(9);
    w.rows = 1 + random.below(3) * random.below(20);
    w.reserve = random.below(4) == 0;
    w.shares = random.below(4) > 0;
    w.prompts = 1 + random.below(4);
    Game game(run, w, seed);
    game.play(5 + random.below(30));
    if (!game.ok) {
      run.expect(false, "seed " + std::to_string(seed) + ": pages of " + std::to_string(w.pageSize) + ", " + std::to_string(w.pages) + " of them, " +
                            std::to_string(w.sequences) + " sequences, " + std::to_string(w.rows) + " rows");
    }
    games++;
    preempted += game.preempted;
    reused += game.reused;
    finished += game.finished;
    cancelled += game.cancelled;
  }
  // Else the games show nothing of what they are for.
  run.expect(preempted > games && reused > 10 * games && finished > 10 * games && cancelled > games / 2,
             "too little happens: " + std::to_string(preempted) + " sent back, " + std::to_string(reused) + " tokens found, " +
                 std::to_string(finished) + " finished, " + std::to_string(cancelled) + " cancelled in " + std::to_string(games) + " games");
}

Asked asked(int tokens, int64_t order, int priority = 0, int drawn = 4) {
  Asked a;
  for (int i = 0; i < tokens; i++) a.tokens.push_back(i + 100 * int(order));
  a.prompt = tokens;
  a.most = tokens + drawn;
  a.order = order;
  a.priority = priority;
  return a;
}

// Runs a step and lets each sequence that comes to its last token draw a 7.
StepPlan next(Scheduler& scheduler) {
  StepPlan step = scheduler.plan();
  scheduler.done();
  for (const Share& share : step.shares)
    if (share.last) share.sequence->tokens.push_back(7);
  return step;
}

void chunks(Run& run) {
  Pages pages(64, 16);
  Scheduler scheduler(pages, 16, {4, 20, false});
  Asked first = asked(10, 1), second = asked(50, 2), third = asked(5, 3);
  scheduler.add(first);
  StepPlan step = next(scheduler);
  run.expect(step.rows == 10 && step.shares[0].last && !step.decodes(), "a whole prompt in one step");
  scheduler.add(second);
  scheduler.add(third);
  step = next(scheduler);
  run.expect(step.shares.size() == 2 && step.shares[0].sequence == &second && step.shares[0].count == 19 && !step.shares[0].last &&
                 step.shares[1].sequence == &first,
             "a prompt fills what one that decodes leaves");
  (void)next(scheduler);
  step = next(scheduler);
  run.expect(step.shares.size() == 3 && step.shares[0].count == 12 && step.shares[1].sequence == &third && step.shares[1].count == 5,
             "the next prompt fills up the step");
  step = next(scheduler);
  run.expect(step.decodes() && step.rows == 3, "then all decode");
}

void order(Run& run) {
  Pages pages(64, 16);
  Scheduler scheduler(pages, 16, {2, 32, false});
  Asked a = asked(8, 1), b = asked(8, 2), c = asked(8, 3), urgent = asked(8, 4, 5);
  for (Asked* s : {&a, &b, &c}) scheduler.add(*s);
  (void)next(scheduler);
  run.expect(a.slot >= 0 && b.slot >= 0 && c.slot < 0, "the oldest first");
  scheduler.add(urgent);
  StepPlan step = next(scheduler);
  run.expect(urgent.slot >= 0 && a.slot >= 0 && b.slot < 0 && step.preempted == 1, "one of more priority takes the place of the youngest");
  scheduler.remove(a);
  step = next(scheduler);
  run.expect(b.slot >= 0 && c.slot < 0 && step.reused == 8 && b.left() == 1, "who was sent back comes before who is younger, and finds its prompt");
}

// Prompts of 21 common tokens and one of their own: all of the common ones are found, whatever the size of a page.
void beginnings(Run& run) {
  for (const int pageSize : {16, 32, 64, 128}) {
    Pages pages(64, pageSize);
    Scheduler scheduler(pages, pageSize, {4, 64, false});
    Asked a = asked(30, 1), b = asked(30, 1);
    b.order = 2;
    for (int i = 21; i < 30; i++) b.tokens[size_t(i)] = 5000 + i;
    scheduler.add(a);
    (void)next(scheduler);
    scheduler.add(b);
    const StepPlan step = next(scheduler);
    run.expect(step.reused == 21 && step.copies.size() == 1 && step.rows == 1 + 9,
               "of 21 common tokens " + std::to_string(step.reused) + " are found in pages of " + std::to_string(pageSize));
    scheduler.remove(a);
    scheduler.remove(b);
    Asked again = asked(30, 1);
    scheduler.add(again);
    run.expect(next(scheduler).reused == 29, "the same prompt again, when nobody holds it: all but its last token");
    Asked other = asked(30, 1);
    other.order = 5;
    other.space = 3;
    scheduler.add(other);
    run.expect(next(scheduler).reused == 0, "another space finds nothing");
    Asked every = asked(30, 1);
    every.order = 6;
    every.everyRow = true;
    scheduler.add(every);
    run.expect(next(scheduler).reused == 0, "who wants every row computes every row");
  }
}

// What nobody holds gives way, the longest unused first, and its end before its beginning.
void eviction(Run& run) {
  Pages pages(6, 16);
  Scheduler scheduler(pages, 16, {2, 96, false});
  auto pass = [&](int tokens, int64_t kind) {
    Asked a = asked(tokens, kind);
    scheduler.add(a);
    const int reused = next(scheduler).reused;
    scheduler.remove(a);
    return reused;
  };
  run.expect(pass(32, 1) == 0 && pass(32, 2) == 0 && pages.cached() == 4 && pages.used() == 0, "two prompts of two pages");
  run.expect(pass(48, 3) == 0 && pages.cached() == 6, "a third takes one of the first's");
  run.expect(pass(32, 1) == 16, "of the first its beginning is left");
  run.expect(pass(32, 2) < 31, "now of the second something is gone");
  run.expect(pass(96, 4) == 0 && pages.cached() == 6, "a large one takes all");
  run.expect(pass(96, 4) == 80, "and is found again, but for its last page: there is none to copy it to");
}

const Suite suite([](Cases& cases) {
  cases.once("scheduler/three thousand random runs in a cache that is played", randomRuns);
  cases.once("scheduler/prompts in chunks beside those that decode", chunks);
  cases.once("scheduler/priority, then age", order);
  cases.once("scheduler/common beginnings are found in pages of any size", beginnings);
  cases.once("scheduler/what nobody holds gives way, the longest unused first", eviction);
});

}  // namespace
}  // namespace ewe::test

// The fork-join team under many small loops: every item exactly once, whatever the sizes, and what one loop wrote is there for the next.
#include "base/threads.h"

#include <chrono>
#include <memory>

#include "cases.h"

namespace ewe::test {

namespace {

struct Loop {
  std::unique_ptr<std::atomic<int>[]> visits;
  std::vector<long> plain;  // written without a lock: loops must order what they write
  std::atomic<int> outside{0};
  long round = 0;
  int threads = 0;
};

}  // namespace

static void hammer(Run& run, int count) {
  constexpr int kMost = 600;
  Threads team(count);
  run.expect(team.count() == count, "the caller is one of the team");
  Loop loop{std::make_unique<std::atomic<int>[]>(kMost), std::vector<long>(kMost, 0), {}, 0, count};
  Random random(uint64_t(count) + 1);
  long total = 0, wrong = 0;
  for (long round = 1; round <= 300; round++) {
    const int items = random.below(8) == 0 ? random.below(kMost) : random.below(20);
    const long grain = random.below(10) - 1;  // below 1 counts as 1
    loop.round = round;
    team.each(
        items, grain,
        [](void* context, long begin, long end, int thread) {
          Loop& loop = *static_cast<Loop*>(context);
          if (thread < 0 || thread >= loop.threads || begin >= end) loop.outside++;
          // Workers that are late must be waited for.
          if (loop.round % 10 == 0 && thread > 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
          for (long i = begin; i < end; i++) {
            loop.visits[size_t(i)]++;
            loop.plain[size_t(i)] += loop.round;
          }
        },
        &loop);
    for (int i = 0; i < kMost; i++) {
      if (loop.visits[size_t(i)].exchange(0) != (i < items ? 1 : 0)) wrong++;
      total += loop.plain[size_t(i)];
      if (loop.plain[size_t(i)] != (i < items ? round : 0)) wrong++;
      loop.plain[size_t(i)] = 0;
    }
    // Now and then long enough for the workers to fall asleep.
    if (round % 60 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  run.expect(total > 0 && wrong == 0, std::to_string(wrong) + " items were not done exactly once");
  run.expect(loop.outside == 0, std::to_string(loop.outside) + " pieces were empty, or named a thread outside the team");
}

// Teams that never work, or work once, end as well.
static void startAndStop(Run& run) {
  std::atomic<int> done{0};
  for (int i = 0; i < 60; i++) {
    Threads team(1 + i % 4);
    if (i % 3 == 0) continue;
    team.each(
        100, 1, [](void* context, long begin, long end, int) { *static_cast<std::atomic<int>*>(context) += int(end - begin); }, &done);
  }
  run.expect(done == 40 * 100, "all items were done");
  run.expect(Threads::available() >= 1, "there is a processor");
}

static Suite suite([](Cases& cases) {
  for (int count = 1; count <= 4; count++)
    cases.once("threads/every item once, team of " + std::to_string(count), [=](Run& run) { hammer(run, count); });
  cases.once("threads/start and stop", startAndStop);
});

}  // namespace ewe::test

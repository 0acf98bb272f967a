#include "emulator/launcher.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "base/threads.h"

namespace ewe::emulator {

struct Runner {
  explicit Runner(int workers) : threads(workers) {
    for (int i = 0; i < workers; i++) blocks.push_back(std::make_unique<Block>());
  }
  Threads threads;  // of the host
  std::vector<std::unique_ptr<Block>> blocks;
};

static std::mutex mutex;
static std::map<std::string, KernelStatistics> statistics;

// Stacks and threads are kept from launch to launch. A launch takes a runner of its own out of the store and puts it back, so that sessions of
// several threads of the host don't wait for each other.
static std::vector<std::unique_ptr<Runner>>& store() {
  static auto* runners = new std::vector<std::unique_ptr<Runner>>;  // lives as long as the process: its threads may outlast other statics
  return *runners;
}

static std::unique_ptr<Runner> takeRunner(int workers) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto& runner : store()) {
      if (int(runner->blocks.size()) != workers) continue;
      std::swap(runner, store().back());
      std::unique_ptr<Runner> taken = std::move(store().back());
      store().pop_back();
      return taken;
    }
  }
  return std::make_unique<Runner>(workers);
}

struct Progress {
  const Launch& launch;
  Runner& runner;
  std::mutex mutex;
  std::string failure;
  std::atomic<bool> failed{false};
  char begun, ended;  // order, for ThreadSanitizer: it does not see base/threads
};

static void runBlocks(void* context, long begin, long end, int thread) {
  auto& p = *static_cast<Progress*>(context);
  Block& block = *p.runner.blocks[size_t(thread)];
  const cuda::Dim& grid = p.launch.grid;
  orderAcquire(&p.begun);
  for (long i = begin; i < end && !p.failed.load(std::memory_order_relaxed); i++) {
    if (block.run(p.launch, unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y))) continue;
    std::lock_guard<std::mutex> lock(p.mutex);
    if (!p.failed.exchange(true)) p.failure = block.failure();
  }
  orderRelease(&p.ended);
}

std::string runLaunch(const Launch& launch) {
  auto runner = takeRunner(launch.settings->workers);
  for (auto& block : runner->blocks) block->counts = {};
  Progress p{launch, *runner, {}, {}, {}, 0, 0};
  orderRelease(&p.begun);
  runner->threads.each(long(launch.grid.x) * launch.grid.y * launch.grid.z, 1, runBlocks, &p);
  orderAcquire(&p.ended);
  std::lock_guard<std::mutex> lock(mutex);
  KernelStatistics& s = statistics[launch.kernel->name];
  std::snprintf(s.name, sizeof s.name, "%s", launch.kernel->name);
  s.launches++;
  for (const auto& block : runner->blocks) {
    s.blocks += block->counts.blocks;
    s.products += block->counts.products;
    s.matrixLoads += block->counts.matrixLoads;
    s.conflicts += block->counts.conflicts;
    s.asyncCopies += block->counts.asyncCopies;
  }
  store().push_back(std::move(runner));
  return p.failure;
}

}  // namespace ewe::emulator

int ewe_emulator_statistics(ewe::emulator::KernelStatistics* out, int most) {
  using namespace ewe::emulator;
  std::lock_guard<std::mutex> lock(mutex);
  int count = 0;
  for (const auto& [name, one] : statistics) {
    if (count < most) out[count] = one;
    count++;
  }
  return count;
}

void ewe_emulator_reset_statistics() {
  std::lock_guard<std::mutex> lock(ewe::emulator::mutex);
  ewe::emulator::statistics.clear();
}

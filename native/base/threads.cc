#include "base/threads.h"

#include <sched.h>

#include <chrono>

namespace ewe {

// Long enough to bridge the gap between two ops of a decode step, short enough not to heat an idle machine.
static constexpr auto kSpin = std::chrono::microseconds(200);

static inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int Threads::available() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return int(std::thread::hardware_concurrency());
}

Threads::Threads(int count) {
  for (int i = 1; i < count; i++) workers_.emplace_back([this, i] { work(i); });
}

Threads::~Threads() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    generation_++;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Threads::drain(int thread) {
  for (;;) {
    long begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= items_) return;
    long end = begin + grain_ < items_ ? begin + grain_ : items_;
    body_(context_, begin, end, thread);
  }
}

void Threads::each(long items, long grain, Body body, void* context) {
  if (grain < 1) grain = 1;
  if (workers_.empty() || items <= grain) {
    if (items > 0) body(context, 0, items, 0);
    return;
  }
  body_ = body;
  context_ = context;
  items_ = items;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(int(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  drain(0);
  // A worker that lost its processor may take long: give ours away rather than spin against it.
  auto start = std::chrono::steady_clock::now();
  while (busy_.load(std::memory_order_acquire) > 0) {
    pause();
    if (std::chrono::steady_clock::now() - start > kSpin) std::this_thread::yield();
  }
}

void Threads::work(int thread) {
  unsigned seen = 0;
  for (;;) {
    auto start = std::chrono::steady_clock::now();
    while (generation_.load(std::memory_order_acquire) == seen) {
      pause();
      if (std::chrono::steady_clock::now() - start < kSpin) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    drain(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace ewe

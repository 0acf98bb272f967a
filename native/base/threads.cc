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
    stop_.store(true, std::memory_order_seq_cst);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

static long piecesLeft(uint64_t loop) { return long(uint32_t(loop)); }

void Threads::drain(int thread) {
  uint64_t seen = loop_.load(std::memory_order_acquire);
  while (piecesLeft(seen) > 0) {
    if (!loop_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    const long begin = (pieces_ - piecesLeft(seen)) * grain_;
    const long end = begin + grain_ < items_ ? begin + grain_ : items_;
    body_(context_, begin, end, thread);
    done_.fetch_add(1, std::memory_order_release);
    seen = loop_.load(std::memory_order_acquire);
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
  pieces_ = (items + grain - 1) / grain;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t number = (loop_.load(std::memory_order_relaxed) >> 32) + 1;
  loop_.store(number << 32 | uint64_t(pieces_), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  drain(0);
  // A worker that lost its processor in the middle of a piece may take long: give ours away rather than spin against it.
  auto start = std::chrono::steady_clock::now();
  while (done_.load(std::memory_order_acquire) < pieces_) {
    pause();
    if (std::chrono::steady_clock::now() - start > kSpin) std::this_thread::yield();
  }
}

void Threads::work(int thread) {
  uint64_t number = 0;
  // A loop that is over by now is reason enough: the next one is near.
  const auto called = [&] { return stop_.load(std::memory_order_seq_cst) || loop_.load(std::memory_order_seq_cst) >> 32 != number; };
  auto start = std::chrono::steady_clock::now();
  while (!stop_.load(std::memory_order_acquire)) {
    const uint64_t loop = loop_.load(std::memory_order_acquire);
    if (piecesLeft(loop) > 0) drain(thread);
    if (loop >> 32 != number) {
      number = loop >> 32;
      start = std::chrono::steady_clock::now();
    }
    pause();
    if (std::chrono::steady_clock::now() - start < kSpin) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, called);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }
}

}  // namespace ewe

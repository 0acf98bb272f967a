// Which of a block's threads that can run runs next. Seed and block decide it all.
#pragma once
#include <cstdint>
#include <vector>

#include "emulator/settings.h"

namespace ewe::emulator {

constexpr int kMaxThreads = 1024, kMaxWarps = kMaxThreads / 32;

class Dice {
 public:
  void seed(uint64_t seed, uint64_t block) { state_ = seed * 0x9e3779b97f4a7c15u ^ (block + 1) * 0xd1342543de82ef95u; }
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int n) { return int((next() >> 32) * uint64_t(n) >> 32); }

 private:
  uint64_t state_ = 0;
};

class Ready {
 public:
  void start(Schedule schedule, int threads, Dice* dice);
  void add(int thread);
  int take();  // -1: none
  // Whether a thread that could go on should queue up again where others became ready: else schedules by chance would seldom leave it.
  bool chooses() const { return schedule_ == Schedule::random || schedule_ == Schedule::prio; }

 private:
  Schedule schedule_ = Schedule::fifo;
  Dice* dice_ = nullptr;
  int count_ = 0, first_ = 0;              // of queue_
  int queue_[kMaxThreads];                 // fifo: a ring; lifo: a stack; random: a bag
  int warps_ = 0;                          // prio, from here on
  unsigned lanes_[kMaxWarps];              // ready lanes of a warp
  int rank_[kMaxWarps], warp_[kMaxWarps];  // rank of a warp, warp of a rank; the lowest rank runs
  unsigned ready_ = 0;                     // ranks with ready lanes
};

}  // namespace ewe::emulator

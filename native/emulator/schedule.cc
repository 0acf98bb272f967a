#include "emulator/schedule.h"

#include <utility>

namespace ewe::emulator {

constexpr int kRankChange = 64;  // a change of priorities in so many turns

void Ready::start(Schedule schedule, int threads, Dice* dice) {
  schedule_ = schedule;
  dice_ = dice;
  count_ = first_ = 0;
  ready_ = 0;
  warps_ = threads / 32;
  if (schedule == Schedule::prio) {
    for (int i = 0; i < warps_; i++) {
      lanes_[i] = 0;
      warp_[i] = i;
      std::swap(warp_[i], warp_[dice->below(i + 1)]);
    }
    for (int i = 0; i < warps_; i++) rank_[warp_[i]] = i;
  }
  // The last thread first onto the stack: a block begins with thread 0 under fifo, with the last one under lifo.
  for (int i = 0; i < threads; i++) add(i);
}

void Ready::add(int thread) {
  if (schedule_ == Schedule::prio) {
    lanes_[thread >> 5] |= 1u << (thread & 31);
    ready_ |= 1u << rank_[thread >> 5];
    return;
  }
  int at = first_ + count_++;
  queue_[at % kMaxThreads] = thread;
}

int Ready::take() {
  if (schedule_ == Schedule::prio) {
    if (!ready_) return -1;
    if (warps_ > 1 && dice_->below(kRankChange) == 0) {
      const int a = dice_->below(warps_), b = dice_->below(warps_);
      std::swap(warp_[a], warp_[b]);
      rank_[warp_[a]] = a;
      rank_[warp_[b]] = b;
      ready_ &= ~(1u << a | 1u << b);
      ready_ |= unsigned(lanes_[warp_[a]] != 0) << a | unsigned(lanes_[warp_[b]] != 0) << b;
    }
    const int warp = warp_[__builtin_ctz(ready_)];
    const int lane = __builtin_ctz(lanes_[warp]);
    lanes_[warp] &= lanes_[warp] - 1;
    if (!lanes_[warp]) ready_ &= ready_ - 1;
    return warp * 32 + lane;
  }
  if (!count_) return -1;
  count_--;
  if (schedule_ == Schedule::lifo) return queue_[(first_ + count_) % kMaxThreads];
  if (schedule_ == Schedule::random) {
    const int at = (first_ + dice_->below(count_ + 1)) % kMaxThreads;
    std::swap(queue_[at], queue_[(first_ + count_) % kMaxThreads]);
    return queue_[(first_ + count_) % kMaxThreads];
  }
  const int thread = queue_[first_];
  first_ = (first_ + 1) % kMaxThreads;
  return thread;
}

}  // namespace ewe::emulator

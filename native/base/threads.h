// A fixed team of threads for fork-join loops. The caller is one of the team. Between loops the others spin for a moment (a decode step is a few
// hundred short loops) and then sleep. A loop is over when its pieces are done: nobody waits for a thread that has none of them, because it sleeps or
// has lost its processor to another program.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace ewe {

class Threads {
 public:
  // Runs body(context, begin, end, thread) for pieces of [0, items) until all are done; thread is 0 .. count() - 1.
  using Body = void (*)(void* context, long begin, long end, int thread);

  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  int count() const { return int(workers_.size()) + 1; }

  // Pieces of `grain` items, fewer than 2^32 of them, are handed out as threads become free: results must not depend on which thread takes which. One
  // caller at a time.
  void each(long items, long grain, Body body, void* context);

  // Processors this process may run on.
  static int available();

 private:
  void work(int thread);
  void drain(int thread);

  std::vector<std::thread> workers_;
  Body body_ = nullptr;
  void* context_ = nullptr;
  long items_ = 0, grain_ = 1, pieces_ = 0;
  // The loop's number, and below it in 32 bits the pieces that nobody has taken. Who takes one from the loop that it saw may read the members above
  // until it has counted the piece as done; whoever comes late, with a number of the past, takes none.
  std::atomic<uint64_t> loop_{0};
  std::atomic<long> done_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace ewe

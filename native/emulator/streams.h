// Streams, events and graphs: work in order within a stream, and between streams only where an event says so.
#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "cuda/driver.h"
#include "emulator/schedule.h"

namespace ewe::emulator {

// One recording of an event.
struct Mark {
  bool reached = false;
  std::chrono::steady_clock::time_point at;
};
using MarkPointer = std::shared_ptr<Mark>;

struct Work {
  std::function<Status()> run;  // null: a wait or a record
  MarkPointer awaits, reaches;
};
using Works = std::vector<Work>;

}  // namespace ewe::emulator

namespace ewe {
struct cuda::StreamHandle {
  std::deque<emulator::Work> queue;
  std::shared_ptr<emulator::Works> capture;  // null where nothing is captured
};
struct cuda::EventHandle {
  emulator::MarkPointer latest;
  bool captured = false;  // last recorded in a capture
};
struct cuda::GraphHandle {
  std::shared_ptr<emulator::Works> works;
};
}  // namespace ewe

namespace ewe::emulator {

class StreamSet {
 public:
  StreamSet(Streams mode, uint64_t seed) : mode_(mode) { dice_.seed(seed, 0); }
  ~StreamSet();
  cuda::Stream create();
  Status destroy(cuda::Stream stream);
  bool knows(cuda::Stream stream) const;
  Status submit(cuda::Stream stream, Work work);
  Status finish(cuda::Stream stream);
  Status finishAll();
  Status reach(const Mark& mark);

 private:
  Status step(cuda::Stream stream);
  // Runs work of any stream that can go on, until done() holds.
  template <class Done>
  Status runUntil(Done done);

  Streams mode_;
  Dice dice_;
  std::vector<cuda::Stream> streams_;
};

}  // namespace ewe::emulator

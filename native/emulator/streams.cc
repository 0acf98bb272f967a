#include "emulator/streams.h"

#include <algorithm>

namespace ewe::emulator {

StreamSet::~StreamSet() {
  for (cuda::Stream stream : streams_) delete stream;
}

cuda::Stream StreamSet::create() {
  streams_.push_back(new cuda::StreamHandle);
  return streams_.back();
}

Status StreamSet::destroy(cuda::Stream stream) {
  EWE_TRY(finish(stream));
  streams_.erase(std::find(streams_.begin(), streams_.end(), stream));
  delete stream;
  return Status();
}

bool StreamSet::knows(cuda::Stream stream) const { return std::find(streams_.begin(), streams_.end(), stream) != streams_.end(); }

Status StreamSet::step(cuda::Stream stream) {
  Work work = std::move(stream->queue.front());
  stream->queue.pop_front();
  if (work.reaches) {
    work.reaches->reached = true;
    work.reaches->at = std::chrono::steady_clock::now();
  }
  return work.run ? work.run() : Status();
}

template <class Done>
Status StreamSet::runUntil(Done done) {
  while (!done()) {
    std::vector<cuda::Stream> able;
    for (cuda::Stream stream : streams_)
      if (!stream->queue.empty() && (!stream->queue.front().awaits || stream->queue.front().awaits->reached)) able.push_back(stream);
    // Marks are reached in the order of issue, so there is always a stream that can go on.
    if (able.empty()) return Status::fail(Kind::internal, "the emulated streams wait for each other");
    EWE_TRY(step(able[size_t(dice_.below(int(able.size())))]));
  }
  return Status();
}

Status StreamSet::submit(cuda::Stream stream, Work work) {
  stream->queue.push_back(std::move(work));
  if (mode_ == Streams::now) return finish(stream);
  // The card may be at work meanwhile, or not.
  int turns = dice_.below(4) ? 0 : dice_.below(4);
  return runUntil([&] {
    const bool idle = std::all_of(streams_.begin(), streams_.end(), [](cuda::Stream s) { return s->queue.empty(); });
    return turns-- == 0 || idle;
  });
}

Status StreamSet::finish(cuda::Stream stream) {
  return runUntil([&] { return stream->queue.empty(); });
}

Status StreamSet::finishAll() {
  return runUntil([&] { return std::all_of(streams_.begin(), streams_.end(), [](cuda::Stream s) { return s->queue.empty(); }); });
}

Status StreamSet::reach(const Mark& mark) {
  return runUntil([&] { return mark.reached; });
}

}  // namespace ewe::emulator

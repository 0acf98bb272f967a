// A session that fails when it is told to, as a card can at any call: what is below it never hears of that call.
#pragma once
#include <functional>
#include <memory>
#include <utility>

#include "cuda/driver.h"

namespace ewe::test {

class Faulty final : public cuda::Session {
 public:
  using Stream = cuda::Stream;
  using Event = cuda::Event;
  // Says for each call whether it fails. Kind::device stays, as the driver's do.
  using Fault = std::function<Status(const char* call)>;
  Faulty(std::unique_ptr<Session> inner, std::shared_ptr<Fault> fault) : inner_(std::move(inner)), fault_(std::move(fault)) {}

  Status memory(size_t* free, size_t* total) override {
    return call("memory", [&] { return inner_->memory(free, total); });
  }
  Status allocate(void** p, size_t bytes) override {
    return call("allocate", [&] { return inner_->allocate(p, bytes); });
  }
  Status release(void* p) override {
    return call("release", [&] { return inner_->release(p); });
  }
  Status allocateHost(void** p, size_t bytes) override {
    return call("allocateHost", [&] { return inner_->allocateHost(p, bytes); });
  }
  Status releaseHost(void* p) override {
    return call("releaseHost", [&] { return inner_->releaseHost(p); });
  }
  Status load(const cuda::Image& image) override {
    return call("load", [&] { return inner_->load(image); });
  }
  Status find(const char* name, int sharedBytes, cuda::Kernel* k) override {
    return call("find", [&] { return inner_->find(name, sharedBytes, k); });
  }
  Status createStream(Stream* s) override {
    return call("createStream", [&] { return inner_->createStream(s); });
  }
  Status destroyStream(Stream s) override {
    return call("destroyStream", [&] { return inner_->destroyStream(s); });
  }
  Status synchronize(Stream s) override {
    return call("synchronize", [&] { return inner_->synchronize(s); });
  }
  Status createEvent(Event* e) override {
    return call("createEvent", [&] { return inner_->createEvent(e); });
  }
  Status destroyEvent(Event e) override {
    return call("destroyEvent", [&] { return inner_->destroyEvent(e); });
  }
  Status record(Event e, Stream s) override {
    return call("record", [&] { return inner_->record(e, s); });
  }
  Status wait(Stream s, Event e) override {
    return call("wait", [&] { return inner_->wait(s, e); });
  }
  Status elapsed(Event from, Event to, float* ms) override {
    return call("elapsed", [&] { return inner_->elapsed(from, to, ms); });
  }
  Status copyIn(Stream s, void* to, const void* from, size_t n) override {
    return call("copyIn", [&] { return inner_->copyIn(s, to, from, n); });
  }
  Status copyOut(Stream s, void* to, const void* from, size_t n) override {
    return call("copyOut", [&] { return inner_->copyOut(s, to, from, n); });
  }
  Status copy(Stream s, void* to, const void* from, size_t n) override {
    return call("copy", [&] { return inner_->copy(s, to, from, n); });
  }
  Status fill(Stream s, void* to, unsigned char value, size_t n) override {
    return call("fill", [&] { return inner_->fill(s, to, value, n); });
  }
  Status launch(Stream s, cuda::Kernel k, cuda::Dim grid, cuda::Dim block, int sharedBytes, const void* args, size_t bytes) override {
    return call("launch", [&] { return inner_->launch(s, k, grid, block, sharedBytes, args, bytes); });
  }
  Status beginCapture(Stream s) override {
    return call("beginCapture", [&] { return inner_->beginCapture(s); });
  }
  Status endCapture(Stream s, cuda::Graph* g) override {
    return call("endCapture", [&] { return inner_->endCapture(s, g); });
  }
  Status launch(Stream s, cuda::Graph g) override {
    return call("launchGraph", [&] { return inner_->launch(s, g); });
  }
  Status destroyGraph(cuda::Graph g) override {
    return call("destroyGraph", [&] { return inner_->destroyGraph(g); });
  }

 private:
  template <class F>
  Status call(const char* name, F inner) {
    if (lost_) return Status::fail(Kind::device, "the card was lost");
    if (Status status = (*fault_)(name); !status.ok()) {
      lost_ = status.failure().kind == Kind::device;
      return status;
    }
    return inner();
  }

  std::unique_ptr<Session> inner_;
  std::shared_ptr<Fault> fault_;
  bool lost_ = false;
};

}  // namespace ewe::test

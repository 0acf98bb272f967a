// The driver interface on the CPU: one card, of the path that this library is built for.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "emulator/heap.h"
#include "emulator/launcher.h"
#include "emulator/streams.h"

#ifndef EWE_PATH
#error "the emulator's build says which path it is for: -DEWE_PATH=700, 750, 800 or 900"
#endif

namespace ewe {

struct cuda::KernelHandle {
  const emulator::KernelEntry* entry;
  int sharedBytes;
};

namespace emulator {

static std::mutex configuring;
static bool configured = false;
static Settings settings;

// The limits of the first card of each path.
static cuda::Card emulatedCard(size_t memory) {
  constexpr int KiB = 1024, MiB = 1024 * 1024;
  switch (EWE_PATH) {
    case 700: return {"Emulated 7.0 (limits of V100)", memory, 70, 80, 96 * KiB, 96 * KiB, 65536, 2048, 32, 6 * MiB};
    case 750: return {"Emulated 7.5 (limits of T4)", memory, 75, 40, 64 * KiB, 64 * KiB, 65536, 1024, 16, 4 * MiB};
    case 800: return {"Emulated 8.0 (limits of A100)", memory, 80, 108, 163 * KiB, 164 * KiB, 65536, 2048, 32, 40 * MiB};
    default: return {"Emulated 9.0 (limits of H200)", memory, 90, 132, 227 * KiB, 228 * KiB, 65536, 2048, 32, 50 * MiB};
  }
}

class EmulatedSession final : public cuda::Session {
 public:
  explicit EmulatedSession(const Settings& s) : settings_(s), card_(emulatedCard(s.memory)), heap_(s.memory, s.strict), streams_(s.streams, s.seed) {}
  ~EmulatedSession() override {
    for (void* memory : host_) std::free(memory);
  }

  Status memory(size_t* free, size_t* total) override {
    EWE_TRY(usable());
    *free = heap_.capacity() - heap_.used();
    *total = heap_.capacity();
    return Status();
  }
  Status allocate(void** memory, size_t bytes) override {
    EWE_TRY(usable());
    return heap_.allocate(memory, bytes);
  }
  Status release(void* memory) override {
    EWE_TRY(usable());
    EWE_TRY(kept(streams_.finishAll()));
    return kept(heap_.release(memory));
  }
  Status allocateHost(void** memory, size_t bytes) override {
    EWE_TRY(usable());
    *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*memory) return Status::fail(Kind::memory, "the host has no %zu bytes", bytes);
    std::memset(*memory, 0xFF, bytes);
    host_.push_back(*memory);
    return Status();
  }
  Status releaseHost(void* memory) override {
    EWE_TRY(usable());
    EWE_TRY(kept(streams_.finishAll()));
    for (size_t i = 0; i < host_.size(); i++) {
      if (host_[i] != memory) continue;
      std::free(memory);
      host_.erase(host_.begin() + long(i));
      return Status();
    }
    return misuse("releaseHost", "the memory was not allocated by allocateHost");
  }

  Status load(const cuda::Image&) override { return usable(); }  // its kernels are in this library
  Status find(const char* name, int sharedBytes, cuda::Kernel* kernel) override {
    EWE_TRY(usable());
    *kernel = nullptr;
    if (sharedBytes > card_.sharedPerBlock)
      return Status::fail(Kind::internal, "%s asks for %d bytes of shared memory, and %s has %d for a block", name, sharedBytes, card_.name.c_str(),
                          card_.sharedPerBlock);
    for (const KernelEntry* entry = firstKernel(); entry; entry = entry->next) {
      if (std::strcmp(entry->name, name)) continue;
      kernels_.push_back(std::make_unique<cuda::KernelHandle>(cuda::KernelHandle{entry, sharedBytes}));
      *kernel = kernels_.back().get();
    }
    return Status();
  }

  Status createStream(cuda::Stream* stream) override {
    EWE_TRY(usable());
    *stream = streams_.create();
    return Status();
  }
  Status destroyStream(cuda::Stream stream) override {
    EWE_TRY(usable());
    EWE_TRY(check(stream, "destroyStream"));
    return kept(streams_.destroy(stream));
  }
  Status synchronize(cuda::Stream stream) override {
    EWE_TRY(usable());
    EWE_TRY(check(stream, "synchronize"));
    if (stream->capture) return misuse("synchronize", "the stream is being captured");
    return kept(streams_.finish(stream));
  }
  Status createEvent(cuda::Event* event) override {
    EWE_TRY(usable());
    events_.push_back(std::make_unique<cuda::EventHandle>());
    *event = events_.back().get();
    return Status();
  }
  Status destroyEvent(cuda::Event event) override {
    EWE_TRY(usable());
    for (size_t i = 0; i < events_.size(); i++) {
      if (events_[i].get() != event) continue;
      events_.erase(events_.begin() + long(i));
      return Status();
    }
    return misuse("destroyEvent", "there is no such event");
  }
  Status record(cuda::Event event, cuda::Stream stream) override {
    EWE_TRY(usable());
    EWE_TRY(check(stream, "record"));
    event->latest = std::make_shared<Mark>();
    event->captured = stream->capture != nullptr;
    if (stream->capture) return Status();  // a graph is one stream: its order says it already
    return submit(stream, {nullptr, nullptr, event->latest});
  }
  Status wait(cuda::Stream stream, cuda::Event event) override {
    EWE_TRY(usable());
    EWE_TRY(check(stream, "wait"));
    if (!event->latest) return Status();  // as the driver: never recorded is nothing to wait for
    if (stream->capture && event->captured) return Status();
    if (stream->capture || event->captured)
      return misuse("wait", "the event was recorded on the other side of a capture; the emulator captures one stream at a time");
    return submit(stream, {nullptr, event->latest, nullptr});
  }
  Status elapsed(cuda::Event from, cuda::Event to, float* milliseconds) override {
    EWE_TRY(usable());
    if (!from->latest || !to->latest || from->captured || to->captured) return misuse("elapsed", "an event was not recorded");
    EWE_TRY(kept(streams_.reach(*from->latest)));
    EWE_TRY(kept(streams_.reach(*to->latest)));
    *milliseconds = std::chrono::duration<float, std::milli>(to->latest->at - from->latest->at).count();
    return Status();
  }

  Status copyIn(cuda::Stream stream, void* device, const void* host, size_t bytes) override {
    EWE_TRY(checkCopy("copyIn", stream, device, bytes, host, bytes));
    return transfer("copyIn", stream, device, host, bytes, device, device);
  }
  Status copyOut(cuda::Stream stream, void* host, const void* device, size_t bytes) override {
    EWE_TRY(checkCopy("copyOut", stream, device, bytes, host, bytes));
    return transfer("copyOut", stream, host, device, bytes, device, device);
  }
  Status copy(cuda::Stream stream, void* to, const void* from, size_t bytes) override {
    EWE_TRY(checkCopy("copy", stream, to, bytes, nullptr, 0));
    EWE_TRY(checkCopy("copy", stream, from, bytes, nullptr, 0));
    const auto a = reinterpret_cast<uintptr_t>(to), b = reinterpret_cast<uintptr_t>(from);
    if (a < b + bytes && b < a + bytes) return misuse("copy", "source and target overlap");
    return transfer("copy", stream, to, from, bytes, to, from);
  }
  Status fill(cuda::Stream stream, void* device, unsigned char value, size_t bytes) override {
    EWE_TRY(checkCopy("fill", stream, device, bytes, nullptr, 0));
    return submit(stream, {[=, this] {
                             EWE_TRY(checkHeld("fill", device, bytes));
                             std::memset(device, value, bytes);
                             return Status();
                           },
                           nullptr, nullptr});
  }

  Status launch(cuda::Stream stream, cuda::Kernel kernel, cuda::Dim grid, cuda::Dim block, int sharedBytes, const void* args,
                size_t argsBytes) override {
    EWE_TRY(usable());
    EWE_TRY(check(stream, "launch"));
    EWE_TRY(checkLaunch(*kernel, grid, block, sharedBytes, argsBytes));
    auto copied = std::make_shared<std::vector<Words>>((argsBytes + sizeof(Words) - 1) / sizeof(Words));
    std::memcpy(copied->data(), args, argsBytes);
    const KernelEntry* entry = kernel->entry;
    return submit(stream, {[=, this] {
                             const Launch launch = {entry, grid, int(block.x), sharedBytes, copied->data(), &settings_, &heap_};
                             std::string failure = runLaunch(launch);
                             if (failure.empty() && !(failure = heap_.damage()).empty()) failure = std::string(entry->name) + ": " + failure;
                             return failure.empty() ? Status() : Status::fail(Kind::device, "%s", failure.c_str());
                           },
                           nullptr, nullptr});
  }

  Status beginCapture(cuda::Stream stream) override {
    EWE_TRY(usable());
    EWE_TRY(check(stream, "beginCapture"));
    if (stream->capture) return misuse("beginCapture", "the stream is being captured already");
    stream->capture = std::make_shared<Works>();
    return Status();
  }
  Status endCapture(cuda::Stream stream, cuda::Graph* graph) override {
    EWE_TRY(usable());
    EWE_TRY(check(stream, "endCapture"));
    if (!stream->capture) return misuse("endCapture", "the stream is not being captured");
    graphs_.push_back(std::make_unique<cuda::GraphHandle>(cuda::GraphHandle{std::move(stream->capture)}));
    stream->capture = nullptr;
    *graph = graphs_.back().get();
    return Status();
  }
  Status launch(cuda::Stream stream, cuda::Graph graph) override {
    EWE_TRY(usable());
    EWE_TRY(check(stream, "launch"));
    for (const Work& work : *graph->works) EWE_TRY(submit(stream, work));
    return Status();
  }
  Status destroyGraph(cuda::Graph graph) override {
    EWE_TRY(usable());
    for (size_t i = 0; i < graphs_.size(); i++) {
      if (graphs_[i].get() != graph) continue;
      graphs_.erase(graphs_.begin() + long(i));
      return Status();
    }
    return misuse("destroyGraph", "there is no such graph");
  }

 private:
  struct alignas(16) Words {
    unsigned long long word[2];
  };

  Status usable() const { return lost_.empty() ? Status() : Status::fail(Kind::device, "%s is lost: %s", card_.name.c_str(), lost_.c_str()); }
  // A failure of the device stays.
  Status kept(Status status) {
    if (!status.ok() && status.failure().kind == Kind::device) lost_ = status.failure().message;
    return status;
  }
  Status misuse(const char* call, const char* why) const { return Status::fail(Kind::internal, "%s: %s", call, why); }
  Status check(cuda::Stream stream, const char* call) const { return streams_.knows(stream) ? Status() : misuse(call, "there is no such stream"); }
  Status checkHeld(const char* call, const void* device, size_t bytes) const {
    return heap_.holds(device, bytes) ? Status() : misuse(call, heap_.explain(device, bytes).c_str());
  }
  Status checkCopy(const char* call, cuda::Stream stream, const void* device, size_t bytes, const void* host, size_t hostBytes) {
    EWE_TRY(usable());
    EWE_TRY(check(stream, call));
    EWE_TRY(checkHeld(call, device, bytes));
    return heap_.touches(host, hostBytes) ? misuse(call, "the host's memory is device memory") : Status();
  }
  // The device's memory must still be there when the work is done: what a graph recorded may have been released.
  Status transfer(const char* call, cuda::Stream stream, void* to, const void* from, size_t bytes, const void* device, const void* device2) {
    return submit(stream, {[=, this] {
                             EWE_TRY(checkHeld(call, device, bytes));
                             EWE_TRY(checkHeld(call, device2, bytes));
                             std::memcpy(to, from, bytes);
                             return Status();
                           },
                           nullptr, nullptr});
  }
  Status submit(cuda::Stream stream, Work work) {
    if (stream->capture) {
      stream->capture->push_back(std::move(work));
      return Status();
    }
    if (work.run) {
      work.run = [this, run = std::move(work.run)] {
        heap_.open();
        Status status = run();
        heap_.close();
        return status;
      };
    }
    return kept(streams_.submit(stream, std::move(work)));
  }
  Status checkLaunch(const cuda::KernelHandle& kernel, cuda::Dim grid, cuda::Dim block, int sharedBytes, size_t argsBytes) const;

  const Settings settings_;
  const cuda::Card card_;
  Heap heap_;
  StreamSet streams_;
  std::vector<void*> host_;
  std::vector<std::unique_ptr<cuda::KernelHandle>> kernels_;
  std::vector<std::unique_ptr<cuda::EventHandle>> events_;
  std::vector<std::unique_ptr<cuda::GraphHandle>> graphs_;
  std::string lost_;
};

Status EmulatedSession::checkLaunch(const cuda::KernelHandle& kernel, cuda::Dim grid, cuda::Dim block, int sharedBytes, size_t argsBytes) const {
  const KernelEntry& entry = *kernel.entry;
  auto wrong = [&](const char* format, auto... values) {
    char text[300];
    std::snprintf(text, sizeof text, format, values...);
    return Status::fail(Kind::internal, "launch of %s: %s", entry.name, text);
  };
  if (argsBytes != size_t(entry.argsBytes)) return wrong("%zu bytes of arguments, the kernel takes %d", argsBytes, entry.argsBytes);
  if (block.y != 1 || block.z != 1) return wrong("blocks of %u x %u x %u threads, kernels here have one dimension", block.x, block.y, block.z);
  if (block.x == 0 || block.x % 32 || int(block.x) > entry.threads)
    return wrong("blocks of %u threads, the kernel takes whole warps up to %d", block.x, entry.threads);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535)
    return wrong("a grid of %u x %u x %u, a card takes 1 to 2147483647 x 65535 x 65535", grid.x, grid.y, grid.z);
  if (sharedBytes < 0 || sharedBytes > kernel.sharedBytes)
    return wrong("%d bytes of shared memory, find() was told %d at most", sharedBytes, kernel.sharedBytes);
  if (!settings_.strict) return Status();
  const int reserved = EWE_PATH >= 800 ? 1024 : 0;  // of each block, for the card's own use
  const int blocks = entry.blocks;
  if (blocks * int(block.x) > card_.threadsPerSm || blocks > card_.blocksPerSm || blocks * (sharedBytes + reserved) > card_.sharedPerSm)
    return wrong("%d blocks of %u threads and %d bytes of shared memory do not fit on a multiprocessor of %s", blocks, block.x, sharedBytes,
                 card_.name.c_str());
  return Status();
}

class EmulatedDriver final : public cuda::Driver {
 public:
  Status cards(std::vector<cuda::Card>& out) override {
    Settings now;
    EWE_TRY(current(now));
    out = {emulatedCard(now.memory)};
    return Status();
  }
  int version() const override { return 13000; }
  Status open(int card, std::unique_ptr<cuda::Session>& out) override {
    Settings now;
    EWE_TRY(current(now));
    if (card != 0) return Status::fail(Kind::device, "there is no emulated card %d: there is one, number 0", card);
    out = std::make_unique<EmulatedSession>(now);
    return Status();
  }

 private:
  static Status current(Settings& out) {
    std::lock_guard<std::mutex> lock(configuring);
    const char* text = std::getenv("EWE_EMULATOR");
    if (configured) {
      out = settings;
    } else if (text) {
      return parseSettings(text, out);
    }
    return Status();
  }
};

}  // namespace emulator
}  // namespace ewe

ewe::cuda::Driver* ewe_emulator_driver() {
  static ewe::emulator::EmulatedDriver driver;
  return &driver;
}

bool ewe_emulator_configure(const char* text, char* error, int errorBytes) {
  using namespace ewe::emulator;
  std::lock_guard<std::mutex> lock(configuring);
  const ewe::Status status = parseSettings(text, settings);
  if (!status.ok()) {
    std::snprintf(error, size_t(errorBytes), "%s", status.failure().message);
    return false;
  }
  configured = true;
  return true;
}

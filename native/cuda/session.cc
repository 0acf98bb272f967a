// A card of the real driver in use: each call of Session is one of the driver's, and its results become typed failures.
#include "cuda/api.h"

namespace ewe::cuda {

namespace {

// After these nothing that the context holds can be used any more: the driver answers every later call with the same error.
bool isLost(Result r) {
  return r == kDeinitialized || r == kDeviceUnavailable || r == kInvalidContext || r == kEccUncorrectable || r == kNvlinkUncorrectable ||
         r == kContained || r == kIllegalAddress || r == kLaunchTimeout || r == kContextDestroyed || r == kAssert ||
         (r >= kHardwareStack && r <= kLaunchFailed) || r == kTensorMemoryLeak || r == kExternalDevice || r == kUnknown;
}

Address address(const void* p) { return Address(reinterpret_cast<uintptr_t>(p)); }

class CudaSession final : public Session {
 public:
  explicit CudaSession(const Api& api) : api_(api) {}

  Status open(int card) {
    EWE_TRY(check(api_.device(&device_, card), "cuDeviceGet"));
    const Result result = api_.retainContext(&context_, device_);
    if (result == kSuccess) return enter();
    if (result == kOutOfMemory) return Status::fail(Kind::memory, "the card has no memory left for a context: other processes hold it");
    return Status::fail(Kind::device, "the card cannot be used: %s (%d)", api_.text(result), result);
  }

  ~CudaSession() override {
    if (!context_) return;
    api_.setContext(context_);
    for (ModuleHandle module : modules_) api_.unloadModule(module);
    api_.setContext(nullptr);
    // The last one out ends the context: with it goes all memory, and a card that was lost to a kernel's fault can be opened anew.
    api_.releaseContext(device_);
  }

  Status memory(size_t* free, size_t* total) override {
    EWE_TRY(enter());
    return check(api_.memory(free, total), "cuMemGetInfo");
  }

  Status allocate(void** memory, size_t bytes) override {
    EWE_TRY(enter());
    Address at = 0;
    const Result result = api_.allocate(&at, bytes ? bytes : 1);
    if (result == kOutOfMemory) {
      size_t free = 0, total = 0;
      EWE_TRY(check(api_.memory(&free, &total), "cuMemGetInfo"));
      return Status::fail(Kind::memory, "the card has no %zu bytes left: %zu of its %zu are free", bytes, free, total);
    }
    EWE_TRY(check(result, "cuMemAlloc"));
    *memory = reinterpret_cast<void*>(uintptr_t(at));
    return {};
  }

  Status release(void* memory) override {
    EWE_TRY(enter());
    return check(api_.release(address(memory)), "cuMemFree");
  }

  Status allocateHost(void** memory, size_t bytes) override {
    EWE_TRY(enter());
    const Result result = api_.allocateHost(memory, bytes ? bytes : 1, 0);
    if (result == kOutOfMemory) return Status::fail(Kind::memory, "no %zu bytes of page-locked memory (ulimit -l, or the container's limit)", bytes);
    return check(result, "cuMemHostAlloc");
  }

  Status releaseHost(void* memory) override {
    EWE_TRY(enter());
    return check(api_.releaseHost(memory), "cuMemFreeHost");
  }

  Status load(const Image& image) override {
    EWE_TRY(enter());
    ModuleHandle module = nullptr;
    const Result result = api_.loadModule(&module, image.data);
    switch (result) {
      case kSuccess: break;
      case kInvalidImage:
      case kNoBinary:
      case kInvalidPtx:
      case kNoJitCompiler:
      case kUnsupportedPtx:
        return Status::fail(Kind::device,
                            "the CUDA driver (of CUDA %d.%d) does not take the kernels of %s: %s (%d); a newer driver may (580 or newer)",
                            api_.version / 1000, api_.version % 1000 / 10, image.stem, api_.text(result), result);
      case kOutOfMemory: return Status::fail(Kind::memory, "the card has no memory left for the kernels of %s (%zu bytes)", image.stem, image.bytes);
      default: return check(result, "cuModuleLoadData");
    }
    modules_.push_back(module);
    return {};
  }

  Status find(const char* name, int sharedBytes, Kernel* kernel) override {
    EWE_TRY(enter());
    *kernel = nullptr;
    for (ModuleHandle module : modules_) {
      Kernel found = nullptr;
      const Result result = api_.findFunction(&found, module, name);
      if (result == kNotFound) continue;
      EWE_TRY(check(result, "cuModuleGetFunction"));
      if (sharedBytes > kSharedWithoutOptIn) EWE_TRY(check(api_.setFunction(found, kMaxDynamicShared, sharedBytes), "cuFuncSetAttribute"));
      *kernel = found;
      return {};
    }
    return {};
  }

  Status createStream(Stream* stream) override {
    EWE_TRY(enter());
    return check(api_.createStream(stream, kNonBlocking), "cuStreamCreate");
  }
  Status destroyStream(Stream stream) override {
    EWE_TRY(enter());
    return check(api_.destroyStream(stream), "cuStreamDestroy");
  }
  Status synchronize(Stream stream) override {
    EWE_TRY(enter());
    return check(api_.synchronizeStream(stream), "cuStreamSynchronize");
  }
  Status createEvent(Event* event) override {
    EWE_TRY(enter());
    return check(api_.createEvent(event, 0), "cuEventCreate");
  }
  Status destroyEvent(Event event) override {
    EWE_TRY(enter());
    return check(api_.destroyEvent(event), "cuEventDestroy");
  }
  Status record(Event event, Stream stream) override {
    EWE_TRY(enter());
    return check(api_.recordEvent(event, stream), "cuEventRecord");
  }
  Status wait(Stream stream, Event event) override {
    EWE_TRY(enter());
    return check(api_.waitEvent(stream, event, 0), "cuStreamWaitEvent");
  }
  Status elapsed(Event from, Event to, float* milliseconds) override {
    EWE_TRY(enter());
    EWE_TRY(check(api_.synchronizeEvent(to), "cuEventSynchronize"));
    return check(api_.elapsed(milliseconds, from, to), "cuEventElapsedTime");
  }

  Status copyIn(Stream stream, void* device, const void* host, size_t bytes) override {
    EWE_TRY(enter());
    return check(api_.copyIn(address(device), host, bytes, stream), "cuMemcpyHtoDAsync");
  }
  Status copyOut(Stream stream, void* host, const void* device, size_t bytes) override {
    EWE_TRY(enter());
    return check(api_.copyOut(host, address(device), bytes, stream), "cuMemcpyDtoHAsync");
  }
  Status copy(Stream stream, void* to, const void* from, size_t bytes) override {
    EWE_TRY(enter());
    return check(api_.copy(address(to), address(from), bytes, stream), "cuMemcpyDtoDAsync");
  }
  Status fill(Stream stream, void* device, unsigned char value, size_t bytes) override {
    EWE_TRY(enter());
    return check(api_.fill(address(device), value, bytes, stream), "cuMemsetD8Async");
  }

  Status launch(Stream stream, Kernel kernel, Dim grid, Dim block, int sharedBytes, const void* args, size_t) override {
    EWE_TRY(enter());
    void* parameters[] = {const_cast<void*>(args)};  // copied by the driver, which knows the kernel's own parameter's size
    return check(api_.launch(kernel, grid.x, grid.y, grid.z, block.x, block.y, block.z, unsigned(sharedBytes), stream, parameters, nullptr),
                 "cuLaunchKernel");
  }

  Status beginCapture(Stream stream) override {
    EWE_TRY(enter());
    return check(api_.beginCapture(stream, kCaptureRelaxed), "cuStreamBeginCapture");
  }
  Status endCapture(Stream stream, Graph* graph) override {
    EWE_TRY(enter());
    GraphSource source = nullptr;
    EWE_TRY(check(api_.endCapture(stream, &source), "cuStreamEndCapture"));
    const Result result = api_.instantiate(graph, source, 0);
    EWE_TRY(check(api_.destroySource(source), "cuGraphDestroy"));
    if (result == kOutOfMemory) return Status::fail(Kind::memory, "the card has no memory left for the recording of a step");
    return check(result, "cuGraphInstantiate");
  }
  Status launch(Stream stream, Graph graph) override {
    EWE_TRY(enter());
    return check(api_.launchGraph(graph, stream), "cuGraphLaunch");
  }
  Status destroyGraph(Graph graph) override {
    EWE_TRY(enter());
    return check(api_.destroyGraph(graph), "cuGraphExecDestroy");
  }

 private:
  // The driver's current context belongs to a thread, and any thread may call.
  Status enter() {
    if (lost_ != kSuccess) return lost("an earlier call");
    return check(api_.setContext(context_), "cuCtxSetCurrent");
  }

  Status check(Result result, const char* call) {
    if (result == kSuccess) return {};
    if (isLost(result)) {
      lost_ = result;
      return lost(call);
    }
    if (result == kOutOfMemory) return Status::fail(Kind::memory, "the card has no memory left for %s", call);
    return Status::fail(Kind::internal, "%s failed: %s (%d)", call, api_.text(result), result);
  }

  Status lost(const char* call) const {
    return Status::fail(Kind::device, "the card was lost: %s failed: %s (%d); load the model again, and if that fails too, start the process anew",
                        call, api_.text(lost_), lost_);
  }

  const Api& api_;
  DeviceHandle device_ = 0;
  ContextHandle context_ = nullptr;
  std::vector<ModuleHandle> modules_;
  Result lost_ = kSuccess;
};

}  // namespace

Status openSession(const Api& api, int card, std::unique_ptr<Session>& out) {
  auto session = std::make_unique<CudaSession>(api);
  EWE_TRY(session->open(card));
  out = std::move(session);
  return {};
}

}  // namespace ewe::cuda

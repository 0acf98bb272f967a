// The real CUDA driver, opened at run time.
#include <dlfcn.h>

#include <mutex>

#include "cuda/api.h"

namespace ewe::cuda {

// CUDA 11.4 has every call. 12.0, which is NVIDIA's driver 525, is the oldest that takes cubins of CUDA 12: those for compute capability 7.0 are. The
// others are of CUDA 13 and may want driver 580; session.cc says so where a driver refuses them.
static constexpr int kOldestDriver = 12000;

const char* Api::text(Result result) const {
  const char* text = nullptr;
  errorString(result, &text);
  return text ? text : "an error without a name";
}

namespace {

class LibCuda final : public Driver {
 public:
  Status open() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
      return Status::fail(Kind::device, "no CUDA driver on this machine (%s); it comes with NVIDIA's driver, version 525 or newer", dlerror());
    EWE_TRY(find(library, "cuDriverGetVersion", api_.driverVersion));
    if (api_.driverVersion(&api_.version) != kSuccess) return Status::fail(Kind::device, "the CUDA driver does not tell its version");
    if (api_.version < kOldestDriver)
      return Status::fail(Kind::device, "the CUDA driver is too old: it is of CUDA %d.%d, and ewe needs %d.%d or newer (NVIDIA's driver 525)",
                          api_.version / 1000, api_.version % 1000 / 10, kOldestDriver / 1000, kOldestDriver % 1000 / 10);
#define EWE_CUDA_FIND(name, symbol, ...) EWE_TRY(find(library, #symbol, api_.name));
    EWE_CUDA_CALLS(EWE_CUDA_FIND)
#undef EWE_CUDA_FIND
    return check(api_.init(0), "cuInit");
  }

  Status cards(std::vector<Card>& out) override {
    int count = 0;
    EWE_TRY(check(api_.deviceCount(&count), "cuDeviceGetCount"));
    if (count == 0) return check(kNoDevice, "cuDeviceGetCount");
    for (int i = 0; i < count; i++) {
      Card card{};
      EWE_TRY(describe(i, card));
      out.push_back(card);
    }
    return {};
  }

  int version() const override { return api_.version; }

  Status open(int card, std::unique_ptr<Session>& out) override { return openSession(api_, card, out); }

 private:
  template <typename Function>
  Status find(void* library, const char* name, Function& out) {
    out = reinterpret_cast<Function>(dlsym(library, name));
    return out ? Status() : Status::fail(Kind::device, "the CUDA driver is broken or too old: it has no %s", name);
  }

  Status check(Result result, const char* call) const {
    if (result == kSuccess) return {};
    if (result == kNoDevice) return Status::fail(Kind::device, "the CUDA driver sees no card (CUDA_VISIBLE_DEVICES hides what it does not name)");
    if (result == kStubLibrary)
      return Status::fail(Kind::device, "libcuda.so.1 is the stub for linking, not a driver: take its folder off LD_LIBRARY_PATH");
    if (result == kDriverMismatch)
      return Status::fail(Kind::device,
                          "the CUDA driver's library and its kernel module are of different versions: restart the machine, or the container");
    if (result == kSystemNotReady) return Status::fail(Kind::device, "the CUDA driver is not ready: nvidia-fabricmanager may not run (%d)", result);
    return Status::fail(Kind::device, "%s failed: %s (%d)", call, api_.text(result), result);
  }

  Status describe(int index, Card& card) {
    DeviceHandle device = 0;
    char name[256] = {};
    EWE_TRY(check(api_.device(&device, index), "cuDeviceGet"));
    EWE_TRY(check(api_.deviceName(name, int(sizeof name) - 1, device), "cuDeviceGetName"));
    EWE_TRY(check(api_.deviceMemory(&card.memory, device), "cuDeviceTotalMem"));
    card.name = name;
    int major = 0, minor = 0, l2 = 0;
    const std::pair<int, int*> attributes[] = {{kCapabilityMajor, &major},
                                               {kCapabilityMinor, &minor},
                                               {kMultiprocessors, &card.sms},
                                               {kSharedPerBlockOptIn, &card.sharedPerBlock},
                                               {kSharedPerSm, &card.sharedPerSm},
                                               {kRegistersPerSm, &card.registersPerSm},
                                               {kThreadsPerSm, &card.threadsPerSm},
                                               {kBlocksPerSm, &card.blocksPerSm},
                                               {kL2Bytes, &l2}};
    for (const auto& [attribute, value] : attributes) EWE_TRY(check(api_.deviceAttribute(value, attribute, device), "cuDeviceGetAttribute"));
    card.computeCapability = 10 * major + minor;
    card.l2 = size_t(l2);
    return {};
  }

  Api api_;
};

}  // namespace

Status openDriver(Driver** out) {
  static std::mutex mutex;
  // Never closed: the driver keeps threads of its own.
  static LibCuda* driver = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (!driver) {
    auto candidate = std::make_unique<LibCuda>();
    EWE_TRY(candidate->open());
    driver = candidate.release();
  }
  *out = driver;
  return {};
}

}  // namespace ewe::cuda

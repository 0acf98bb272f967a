// The real CUDA driver, opened at run time with declarations of our own: the addon links no CUDA library and loads on machines that have none.
#include <dlfcn.h>

#include <mutex>

#include "cuda/driver.h"

namespace ewe::cuda {

namespace {

// Names and values of cuda.h that are used here; the driver's ABI keeps them.
using Result = int;
using DeviceHandle = int;
constexpr Result kSuccess = 0, kNoDevice = 100;
constexpr int kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76;

class LibCuda final : public Driver {
 public:
  Status open() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return Status::fail(Kind::device, "no CUDA driver on this machine (%s)", dlerror());
    EWE_TRY(find(library, "cuInit", init_));
    EWE_TRY(find(library, "cuDriverGetVersion", driverVersion_));
    EWE_TRY(find(library, "cuGetErrorString", errorString_));
    EWE_TRY(find(library, "cuDeviceGetCount", deviceCount_));
    EWE_TRY(find(library, "cuDeviceGet", device_));
    EWE_TRY(find(library, "cuDeviceGetName", deviceName_));
    EWE_TRY(find(library, "cuDeviceTotalMem_v2", deviceMemory_));
    EWE_TRY(find(library, "cuDeviceGetAttribute", deviceAttribute_));
    EWE_TRY(check(init_(0), "cuInit"));
    return check(driverVersion_(&version_), "cuDriverGetVersion");
  }

  Status cards(std::vector<Card>& out) override {
    int count = 0;
    EWE_TRY(check(deviceCount_(&count), "cuDeviceGetCount"));
    for (int i = 0; i < count; i++) {
      DeviceHandle device = 0;
      char name[256] = {};
      int major = 0, minor = 0;
      Card card{};
      EWE_TRY(check(device_(&device, i), "cuDeviceGet"));
      EWE_TRY(check(deviceName_(name, int(sizeof name) - 1, device), "cuDeviceGetName"));
      EWE_TRY(check(deviceMemory_(&card.memory, device), "cuDeviceTotalMem"));
      EWE_TRY(check(deviceAttribute_(&major, kComputeCapabilityMajor, device), "cuDeviceGetAttribute"));
      EWE_TRY(check(deviceAttribute_(&minor, kComputeCapabilityMinor, device), "cuDeviceGetAttribute"));
      card.name = name;
      card.computeCapability = 10 * major + minor;
      out.push_back(card);
    }
    return {};
  }

  int version() const override { return version_; }

 private:
  template <typename Function>
  Status find(void* library, const char* name, Function& out) {
    out = reinterpret_cast<Function>(dlsym(library, name));
    return out ? Status() : Status::fail(Kind::device, "the CUDA driver is too old: it has no %s", name);
  }

  Status check(Result result, const char* call) {
    if (result == kSuccess) return {};
    if (result == kNoDevice) return Status::fail(Kind::device, "the CUDA driver sees no device");
    const char* text = nullptr;
    errorString_(result, &text);
    return Status::fail(Kind::device, "%s failed: %s (%d)", call, text ? text : "unknown error", result);
  }

  Result (*init_)(unsigned) = nullptr;
  Result (*driverVersion_)(int*) = nullptr;
  Result (*errorString_)(Result, const char**) = nullptr;
  Result (*deviceCount_)(int*) = nullptr;
  Result (*device_)(DeviceHandle*, int) = nullptr;
  Result (*deviceName_)(char*, int, DeviceHandle) = nullptr;
  Result (*deviceMemory_)(size_t*, DeviceHandle) = nullptr;
  Result (*deviceAttribute_)(int*, int, DeviceHandle) = nullptr;
  int version_ = 0;
};

}  // namespace

Status openDriver(Driver** out) {
  static std::mutex mutex;
  // Never closed: the driver keeps threads of its own.
  static LibCuda* driver = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (!driver) {
    auto* candidate = new LibCuda;
    Status status = candidate->open();
    if (!status.ok()) {
      delete candidate;
      return status;
    }
    driver = candidate;
  }
  *out = driver;
  return {};
}

}  // namespace ewe::cuda

// What is used of the CUDA driver's interface, with declarations of our own: the addon links no CUDA library and loads on machines that have none.
// Names, values and signatures are those of cuda.h; the driver keeps them from version to version (a changed function gets a name with _v2).
#pragma once
#include <cstddef>
#include <memory>

#include "cuda/driver.h"

namespace ewe::cuda {

using Result = int;
using DeviceHandle = int;
using ContextHandle = struct ContextOpaque*;
using ModuleHandle = struct ModuleOpaque*;
using GraphSource = struct GraphSourceOpaque*;  // CUgraph; what is launched is made of it
using Address = unsigned long long;             // CUdeviceptr

enum : Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kDeinitialized = 4,
  kStubLibrary = 34,
  kDeviceUnavailable = 46,
  kNoDevice = 100,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kNoBinary = 209,
  kEccUncorrectable = 214,
  kInvalidPtx = 218,
  kNvlinkUncorrectable = 220,
  kNoJitCompiler = 221,
  kUnsupportedPtx = 222,
  kContained = 226,
  kNotFound = 500,
  kIllegalAddress = 700,
  kLaunchTimeout = 702,
  kContextDestroyed = 709,
  kAssert = 710,
  kHardwareStack = 714,  // 714 to 719: what a kernel died of
  kLaunchFailed = 719,
  kTensorMemoryLeak = 721,
  kSystemNotReady = 802,
  kDriverMismatch = 803,
  kExternalDevice = 911,
  kUnknown = 999
};

enum : int {  // CUdevice_attribute
  kSharedPerBlock = 8,
  kMultiprocessors = 16,
  kL2Bytes = 38,
  kThreadsPerSm = 39,
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kSharedPerSm = 81,
  kRegistersPerSm = 82,
  kSharedPerBlockOptIn = 97,
  kBlocksPerSm = 106
};
constexpr int kMaxDynamicShared = 8;  // CUfunction_attribute
constexpr unsigned kNonBlocking = 1;  // CUstream_flags: no order with the default stream
constexpr int kCaptureRelaxed = 2;    // CUstreamCaptureMode: a kernel that is found meanwhile may be loaded
constexpr int kSharedWithoutOptIn = 48 << 10;

#define EWE_CUDA_CALLS(CALL)                                                                                                         \
  CALL(init, cuInit, unsigned)                                                                                                       \
  CALL(driverVersion, cuDriverGetVersion, int*)                                                                                      \
  CALL(errorString, cuGetErrorString, Result, const char**)                                                                          \
  CALL(deviceCount, cuDeviceGetCount, int*)                                                                                          \
  CALL(device, cuDeviceGet, DeviceHandle*, int)                                                                                      \
  CALL(deviceName, cuDeviceGetName, char*, int, DeviceHandle)                                                                        \
  CALL(deviceMemory, cuDeviceTotalMem_v2, size_t*, DeviceHandle)                                                                     \
  CALL(deviceAttribute, cuDeviceGetAttribute, int*, int, DeviceHandle)                                                               \
  CALL(retainContext, cuDevicePrimaryCtxRetain, ContextHandle*, DeviceHandle)                                                        \
  CALL(releaseContext, cuDevicePrimaryCtxRelease_v2, DeviceHandle)                                                                   \
  CALL(setContext, cuCtxSetCurrent, ContextHandle)                                                                                   \
  CALL(memory, cuMemGetInfo_v2, size_t*, size_t*)                                                                                    \
  CALL(allocate, cuMemAlloc_v2, Address*, size_t)                                                                                    \
  CALL(release, cuMemFree_v2, Address)                                                                                               \
  CALL(allocateHost, cuMemHostAlloc, void**, size_t, unsigned)                                                                       \
  CALL(releaseHost, cuMemFreeHost, void*)                                                                                            \
  CALL(loadModule, cuModuleLoadData, ModuleHandle*, const void*)                                                                     \
  CALL(unloadModule, cuModuleUnload, ModuleHandle)                                                                                   \
  CALL(findFunction, cuModuleGetFunction, Kernel*, ModuleHandle, const char*)                                                        \
  CALL(setFunction, cuFuncSetAttribute, Kernel, int, int)                                                                            \
  CALL(createStream, cuStreamCreate, Stream*, unsigned)                                                                              \
  CALL(destroyStream, cuStreamDestroy_v2, Stream)                                                                                    \
  CALL(synchronizeStream, cuStreamSynchronize, Stream)                                                                               \
  CALL(waitEvent, cuStreamWaitEvent, Stream, Event, unsigned)                                                                        \
  CALL(createEvent, cuEventCreate, Event*, unsigned)                                                                                 \
  CALL(destroyEvent, cuEventDestroy_v2, Event)                                                                                       \
  CALL(recordEvent, cuEventRecord, Event, Stream)                                                                                    \
  CALL(synchronizeEvent, cuEventSynchronize, Event)                                                                                  \
  CALL(elapsed, cuEventElapsedTime, float*, Event, Event)                                                                            \
  CALL(copyIn, cuMemcpyHtoDAsync_v2, Address, const void*, size_t, Stream)                                                           \
  CALL(copyOut, cuMemcpyDtoHAsync_v2, void*, Address, size_t, Stream)                                                                \
  CALL(copy, cuMemcpyDtoDAsync_v2, Address, Address, size_t, Stream)                                                                 \
  CALL(fill, cuMemsetD8Async, Address, unsigned char, size_t, Stream)                                                                \
  CALL(launch, cuLaunchKernel, Kernel, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, void**, void**) \
  CALL(beginCapture, cuStreamBeginCapture_v2, Stream, int)                                                                           \
  CALL(endCapture, cuStreamEndCapture, Stream, GraphSource*)                                                                         \
  CALL(instantiate, cuGraphInstantiateWithFlags, Graph*, GraphSource, unsigned long long)                                            \
  CALL(destroySource, cuGraphDestroy, GraphSource)                                                                                   \
  CALL(launchGraph, cuGraphLaunch, Graph, Stream)                                                                                    \
  CALL(destroyGraph, cuGraphExecDestroy, Graph)

struct Api {
#define EWE_CUDA_FIELD(name, symbol, ...) Result (*name)(__VA_ARGS__) = nullptr;
  EWE_CUDA_CALLS(EWE_CUDA_FIELD)
#undef EWE_CUDA_FIELD
  int version = 0;  // of the driver, as it counts
  const char* text(Result result) const;
};

Status openSession(const Api& api, int card, std::unique_ptr<Session>& out);

}  // namespace ewe::cuda

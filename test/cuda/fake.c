// A driver that a machine without a card can load: its memory is the host's, its kernels do nothing. What it says is told by environment variables.
#include <stdlib.h>
#include <string.h>

static int number(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text ? atoi(text) : otherwise;
}
static size_t used;
static size_t memory(void) { return (size_t)number("FAKE_MIB", 1024) << 20; }
// After the launch of this number every call that needs the card fails, as a driver's do after a fault.
static int launches;
static int lost(void) { return number("FAKE_FAULT_AT", 0) && launches >= number("FAKE_FAULT_AT", 0) ? number("FAKE_FAULT", 700) : 0; }

int cuDriverGetVersion(int* version) { return *version = number("FAKE_VERSION", 13000), 0; }
int cuInit(unsigned flags) { return (void)flags, number("FAKE_INIT", 0); }
int cuGetErrorString(int result, const char** text) { return *text = result == 700 ? "an illegal memory access was encountered" : "some error", 0; }
int cuDeviceGetCount(int* count) { return *count = number("FAKE_CARDS", 1), 0; }
int cuDeviceGet(int* device, int index) { return *device = index, 0; }
int cuDeviceGetName(char* name, int length, int device) {
  const char* text = getenv("FAKE_NAME");
  (void)device;
  strncpy(name, text ? text : "NVIDIA A100-SXM4-80GB", (size_t)length);
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { return (void)device, *bytes = memory(), 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int capability = number("FAKE_CAPABILITY", 80);
  (void)device;
  switch (attribute) {
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    case 16: *value = 108; break;
    case 97: *value = 163 << 10; break;
    case 81: *value = 164 << 10; break;
    case 82: *value = 65536; break;
    case 39: *value = 2048; break;
    case 106: *value = 32; break;
    case 38: *value = 40 << 20; break;
    default: return 1;
  }
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { return (void)device, *context = &used, number("FAKE_RETAIN", 0); }
int cuDevicePrimaryCtxRelease_v2(int device) { return (void)device, 0; }
int cuCtxSetCurrent(void* context) { return (void)context, 0; }
int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = memory() - used, *total = memory(), lost(); }
// The bytes asked for are kept in front.
int cuMemAlloc_v2(unsigned long long* at, size_t bytes) {
  if (lost()) return lost();
  if (bytes > memory() - used) return 2;
  char* block = aligned_alloc(256, (bytes + 511) / 256 * 256);
  if (!block) return 2;
  *(size_t*)block = bytes;
  used += bytes;
  *at = (unsigned long long)(block + 256);
  return 0;
}
int cuMemFree_v2(unsigned long long at) {
  char* block = (char*)at - 256;
  used -= *(size_t*)block;
  free(block);
  return lost();
}
int cuMemHostAlloc(void** at, size_t bytes, unsigned flags) { return (void)flags, (*at = malloc(bytes)) ? 0 : 2; }
int cuMemFreeHost(void* at) { return free(at), lost(); }
int cuModuleLoadData(void** module, const void* image) { return (void)image, *module = &used, number("FAKE_LOAD", 0); }
int cuModuleUnload(void* module) { return (void)module, 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) { return (void)module, (void)name, *function = &launches, number("FAKE_FIND", 0); }
int cuFuncSetAttribute(void* function, int attribute, int value) { return (void)function, (void)attribute, (void)value, 0; }
int cuStreamCreate(void** stream, unsigned flags) { return (void)flags, *stream = &launches, 0; }
int cuStreamDestroy_v2(void* stream) { return (void)stream, 0; }
int cuStreamSynchronize(void* stream) { return (void)stream, lost(); }
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) { return (void)stream, (void)event, (void)flags, 0; }
int cuEventCreate(void** event, unsigned flags) { return (void)flags, *event = &launches, 0; }
int cuEventDestroy_v2(void* event) { return (void)event, 0; }
int cuEventRecord(void* event, void* stream) { return (void)event, (void)stream, 0; }
int cuEventSynchronize(void* event) { return (void)event, lost(); }
int cuEventElapsedTime(float* ms, void* from, void* to) { return (void)from, (void)to, *ms = 0, 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t n, void* stream) { return (void)stream, memcpy((void*)to, from, n), lost(); }
int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t n, void* stream) { return (void)stream, memcpy(to, (void*)from, n), lost(); }
int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t n, void* stream) {
  return (void)stream, memcpy((void*)to, (void*)from, n), lost();
}
int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t n, void* stream) { return (void)stream, memset((void*)to, value, n), lost(); }
int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** args,
                   void** extra) {
  const int before = lost();
  (void)f, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)stream, (void)args, (void)extra;
  launches++;
  return before;
}
int cuStreamBeginCapture_v2(void* stream, int mode) { return (void)stream, (void)mode, lost(); }
int cuStreamEndCapture(void* stream, void** graph) { return (void)stream, *graph = &launches, lost(); }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) { return (void)graph, (void)flags, *executable = &launches, 0; }
int cuGraphDestroy(void* graph) { return (void)graph, 0; }
int cuGraphLaunch(void* graph, void* stream) { return (void)graph, (void)stream, lost(); }
#ifndef FAKE_WITHOUT_GRAPH_DESTROY
int cuGraphExecDestroy(void* graph) { return (void)graph, 0; }
#endif

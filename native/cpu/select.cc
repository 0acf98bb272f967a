#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/threads.h"
#include "cpu/cpu.h"

namespace ewe {

namespace cpu_plain {
Ops* create(Threads&);
}
#if defined(__x86_64__)
namespace cpu_avx2 {
Ops* create(Threads&);
}
namespace cpu_avx512 {
Ops* create(Threads&);
}
namespace cpu_avx512bf16 {
Ops* create(Threads&);
}
#endif

namespace {

// The compiler's run-time library asks the processor and the operating system (which must save the wide registers) alike.
bool anywhere() { return true; }
#if defined(__x86_64__)
bool avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
bool avx512() {
  return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
}
bool avx512bf16() { return avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"); }
#endif

struct Set {
  const char* name;
  bool (*supported)();
  Ops* (*create)(Threads&);
};

// From the slowest to the fastest.
const Set kSets[] = {
    {"plain", anywhere, cpu_plain::create},
#if defined(__x86_64__)
    {"avx2", avx2, cpu_avx2::create},
    {"avx512", avx512, cpu_avx512::create},
    {"avx512bf16", avx512bf16, cpu_avx512bf16::create},
#endif
};

}  // namespace

const char* const kCpuSets[] = {"plain",
#if defined(__x86_64__)
                                "avx2", "avx512", "avx512bf16",
#endif
                                nullptr};

bool cpuSupports(const char* name) {
  for (const Set& set : kSets)
    if (std::strcmp(set.name, name) == 0) return set.supported();
  return false;
}

Status createCpu(const char* name, Threads& threads, Ops** out) {
  const bool any = std::strcmp(name, "auto") == 0;
  const Set* chosen = nullptr;
  std::string present;
  for (const Set& set : kSets) {
    if (!set.supported()) continue;
    present += (present.empty() ? "" : ", ") + std::string(set.name);
    if (any || std::strcmp(set.name, name) == 0) chosen = &set;
  }
  if (!chosen) {
    return Status::fail(Kind::device, "The CPU's instruction set \"%s\" is not available; this machine has %s. Use one of these, or \"auto\".", name,
                        present.c_str());
  }
  *out = chosen->create(threads);
  return {};
}

namespace host {

int threads(const Threads& team) { return team.count(); }
void each(Threads& team, long items, long grain, Body body, void* context) { team.each(items, grain, body, context); }

// Large arenas are aligned to, and asked for as, huge pages: decoding walks through several matrices at once, each page apart. calloc takes them from
// the system as they are, so that memory nobody touches costs nothing. The address it gave lies just before ours.
void* allocate(size_t bytes) {
  constexpr size_t kHuge = size_t(2) << 20;
  const size_t alignment = bytes >= 2 * kHuge ? kHuge : 64;
  if (bytes > SIZE_MAX - alignment - sizeof(void*)) return nullptr;
  char* base = static_cast<char*>(std::calloc(1, bytes + alignment + sizeof(void*)));
  if (!base) return nullptr;
  char* memory = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base) + sizeof(void*) + alignment - 1) & ~uintptr_t(alignment - 1));
  std::memcpy(memory - sizeof(void*), &base, sizeof(void*));
#if defined(MADV_HUGEPAGE)
  if (alignment == kHuge) madvise(memory, bytes & ~(kHuge - 1), MADV_HUGEPAGE);  // a wish: its refusal changes nothing but speed
#endif
  return memory;
}

void release(void* memory) {
  if (!memory) return;
  void* base;
  std::memcpy(&base, static_cast<char*>(memory) - sizeof(void*), sizeof(void*));
  std::free(base);
}

}  // namespace host
}  // namespace ewe

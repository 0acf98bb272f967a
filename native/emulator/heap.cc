#include "emulator/heap.h"

#include "emulator/faults.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#if defined(EWE_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif

namespace ewe::emulator {

constexpr size_t kAlignment = 256, kPage = 4096;
constexpr size_t kGuard = size_t(16) << 20;  // only addresses: it holds no memory
constexpr unsigned char kPoison = 0xFF;

static size_t roundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

Heap::Heap(size_t capacity, bool strict) : capacity_(capacity), strict_(strict) {
  if (strict) guardHeap(this);
}
Heap::~Heap() {
  if (strict_) forgetHeap(this);
  open();
  while (!allocations_.empty()) {
    Status status = release(reinterpret_cast<void*>(allocations_.back().begin));
    (void)status.ok();  // damage was reported when it was done
  }
}

Status Heap::allocate(void** memory, size_t bytes) {
  *memory = nullptr;
  if (bytes == 0) return Status::fail(Kind::internal, "allocation of 0 bytes");
  const size_t size = roundUp(bytes, kAlignment);
  if (size > capacity_ - used_)
    return Status::fail(Kind::memory, "the emulated card has %zu of %zu bytes left, and %zu were asked for", capacity_ - used_, capacity_, bytes);
  Allocation a{};
  a.bytes = bytes;
  a.mapped = roundUp(size, kPage) + 2 * kGuard;
  void* mapping = mmap(nullptr, a.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return Status::fail(Kind::memory, "the host has no %zu bytes for the emulated card", bytes);
  a.mapping = static_cast<char*>(mapping);
  char* const last = a.mapping + a.mapped - kGuard;  // the allocation ends here, but for its alignment
  char* const begin = last - size;
  mprotect(a.mapping + kGuard, a.mapped - 2 * kGuard, PROT_READ | PROT_WRITE);
  std::memset(a.mapping + kGuard, kPoison, a.mapped - 2 * kGuard);
#if defined(EWE_ADDRESS_SANITIZER)
  __asan_poison_memory_region(a.mapping + kGuard, a.mapped - 2 * kGuard);
  __asan_unpoison_memory_region(begin, bytes);
#endif
  if (strict_ && !open_) mprotect(a.mapping + kGuard, a.mapped - 2 * kGuard, PROT_NONE);
  a.begin = reinterpret_cast<uintptr_t>(begin);
  allocations_.insert(std::upper_bound(allocations_.begin(), allocations_.end(), a.begin,
                                       [](uintptr_t address, const Allocation& other) { return address < other.begin; }),
                      a);
  used_ += size;
  *memory = begin;
  return Status();
}

Status Heap::release(void* memory) {
  const auto at =
      std::find_if(allocations_.begin(), allocations_.end(), [&](const Allocation& a) { return a.begin == reinterpret_cast<uintptr_t>(memory); });
  if (at == allocations_.end()) return Status::fail(Kind::internal, "release of %p: %s", memory, explain(memory, 1).c_str());
  const Allocation a = *at;
  open();
  const std::string wrong = damageOf(a);
  close();
#if defined(EWE_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(a.mapping + kGuard, a.mapped - 2 * kGuard);
#endif
  munmap(a.mapping, a.mapped);
  used_ -= roundUp(a.bytes, kAlignment);
  allocations_.erase(at);
  return wrong.empty() ? Status() : Status::fail(Kind::device, "%s", wrong.c_str());
}

const Heap::Allocation* Heap::below(uintptr_t address) const {
  const auto after =
      std::upper_bound(allocations_.begin(), allocations_.end(), address, [](uintptr_t at, const Allocation& a) { return at < a.begin; });
  return after == allocations_.begin() ? nullptr : &*(after - 1);
}

bool Heap::find(const void* at, size_t bytes, size_t& begin, size_t& end) const {
  const auto address = reinterpret_cast<uintptr_t>(at);
  const Allocation* a = below(address);
  if (!a || address - a->begin > a->bytes || a->bytes - (address - a->begin) < bytes) return false;
  begin = a->begin;
  end = a->begin + a->bytes;
  return true;
}
bool Heap::holds(const void* at, size_t bytes) const {
  size_t begin, end;
  return find(at, bytes, begin, end);
}
bool Heap::touches(const void* at, size_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(at);
  const Allocation* a = bytes ? below(address + bytes - 1) : nullptr;
  return a && address < a->begin + a->bytes;
}

std::string Heap::explain(const void* at, size_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(at);
  const Allocation* a = below(address);
  if (!a || address - a->begin >= a->bytes + kGuard) {
    const Allocation* above = below(address + kGuard);
    a = above && above->begin > address ? above : nullptr;
  }
  char text[200];
  if (a)
    std::snprintf(text, sizeof text, "%zu bytes at offset %lld of an allocation of %zu bytes", bytes, static_cast<long long>(address - a->begin),
                  a->bytes);
  else std::snprintf(text, sizeof text, "%zu bytes at %p, which is not device memory", bytes, at);
  return text;
}

// The bytes around an allocation that can be written all the same.
std::string Heap::damageOf([[maybe_unused]] const Allocation& a) {
#if !defined(EWE_ADDRESS_SANITIZER)
  constexpr size_t kBefore = 256;
  const auto* const memory = reinterpret_cast<const unsigned char*>(a.begin);
  const auto* const mapped = reinterpret_cast<const unsigned char*>(a.mapping + kGuard);
  const unsigned char* const ends[2][2] = {{memory - mapped > long(kBefore) ? memory - kBefore : mapped, memory},
                                           {memory + a.bytes, memory + roundUp(a.bytes, kAlignment)}};
  for (const auto& [first, last] : ends) {
    for (const unsigned char* at = first; at < last; at++) {
      if (*at == kPoison) continue;
      char text[200];
      std::snprintf(text, sizeof text, "device memory was written outside an allocation of %zu bytes, at offset %lld", a.bytes,
                    static_cast<long long>(at - memory));
      return text;
    }
  }
#endif
  return {};
}

std::string Heap::damage() const {
  for (const Allocation& a : allocations_) {
    const std::string text = damageOf(a);
    if (!text.empty()) return text;
  }
  return {};
}

void Heap::open() {
  if (!strict_ || open_++) return;
  for (const Allocation& a : allocations_) mprotect(a.mapping + kGuard, a.mapped - 2 * kGuard, PROT_READ | PROT_WRITE);
}
void Heap::close() {
  if (!strict_ || --open_) return;
  for (const Allocation& a : allocations_) mprotect(a.mapping + kGuard, a.mapped - 2 * kGuard, PROT_NONE);
}

}  // namespace ewe::emulator

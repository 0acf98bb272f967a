#include "emulator/fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(EWE_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EWE_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#endif

#ifndef __x86_64__
#error "the emulator's fibers are written for x86-64"
#endif

// rdi: where to save the stack pointer, rsi: the one to go on with. The saved registers are those that a function must keep.
asm(R"(
  .text
  .p2align 4
  .type ewe_emulator_switch, @function
ewe_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
  .size ewe_emulator_switch, .-ewe_emulator_switch
)");
extern "C" void ewe_emulator_switch(void** save, void* load);

namespace ewe::emulator {

constexpr size_t kPage = 4096;
#if defined(EWE_ADDRESS_SANITIZER) || defined(EWE_THREAD_SANITIZER)
constexpr size_t kStack = 256 * 1024;
#else
constexpr size_t kStack = 64 * 1024;
#endif
constexpr size_t kSlot = kPage + kStack;

Stacks::Stacks(int count) : count_(count) {
  void* memory = mmap(nullptr, kSlot * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("ewe emulator: no memory for stacks");
    std::abort();
  }
  memory_ = static_cast<char*>(memory);
  for (int i = 0; i < count; i++) mprotect(memory_ + kSlot * i, kPage, PROT_NONE);
}
Stacks::~Stacks() { munmap(memory_, kSlot * count_); }

void Stacks::prepare(Fiber& fiber, int index, void (*entry)()) {
  char* bottom = memory_ + kSlot * index + kPage;
  fiber.stackBottom = bottom;
  fiber.stackBytes = kStack;
  fiber.fakeStack = nullptr;
#if defined(EWE_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(bottom, kStack);
#endif
#if defined(EWE_THREAD_SANITIZER)
  discard(fiber.tsan);
  fiber.tsan = __tsan_create_fiber(0);
#endif
  // Tops differ by a few cache lines: with the same offset in every page the frames of a warp would fight for the same sets of the cache.
  uintptr_t top = reinterpret_cast<uintptr_t>(bottom + kStack) - 64 * (index % 64);
  uintptr_t* frame = reinterpret_cast<uintptr_t*>(top) - 8;
  for (int i = 0; i < 6; i++) frame[i] = 0;
  frame[6] = reinterpret_cast<uintptr_t>(entry);
  frame[7] = 0;  // entry's return address: there is none
  fiber.stackPointer = frame;
}

void switchFiber(Fiber& from, Fiber& to) {
#if defined(EWE_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(&from.fakeStack, to.stackBottom, to.stackBytes);
#endif
#if defined(EWE_THREAD_SANITIZER)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  ewe_emulator_switch(&from.stackPointer, to.stackPointer);
#if defined(EWE_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(from.fakeStack, nullptr, nullptr);
#endif
}

void enteredFiber() {
#if defined(EWE_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void adoptThread([[maybe_unused]] Fiber& fiber) {
#if defined(EWE_ADDRESS_SANITIZER)
  pthread_attr_t attributes;
  void* bottom = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &bottom, &fiber.stackBytes);
  pthread_attr_destroy(&attributes);
  fiber.stackBottom = bottom;
#endif
#if defined(EWE_THREAD_SANITIZER)
  fiber.tsan = __tsan_get_current_fiber();
#endif
}

void discard([[maybe_unused]] void*& tsan) {
#if defined(EWE_THREAD_SANITIZER)
  if (tsan) __tsan_destroy_fiber(tsan);
  tsan = nullptr;
#endif
}

#if defined(EWE_THREAD_SANITIZER)
void* standIn(void*& other) {
  if (!other) other = __tsan_create_fiber(0);
  void* const own = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(other, __tsan_switch_to_fiber_no_sync);
  return own;
}
void standBack(void* own) { __tsan_switch_to_fiber(own, __tsan_switch_to_fiber_no_sync); }
#else
void* standIn(void*&) { return nullptr; }
void standBack(void*) {}
#endif

void orderRelease([[maybe_unused]] void* object) {
#if defined(EWE_THREAD_SANITIZER)
  __tsan_release(object);
#endif
}
void orderAcquire([[maybe_unused]] void* object) {
#if defined(EWE_THREAD_SANITIZER)
  __tsan_acquire(object);
#endif
}

}  // namespace ewe::emulator

#include "emulator/faults.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "emulator/block.h"

namespace ewe::emulator {

#if defined(EWE_ADDRESS_SANITIZER) || defined(EWE_THREAD_SANITIZER)

void catchFaults() {}
void guardHeap(const Heap*) {}
void forgetHeap(const Heap*) {}

#else

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE};
static struct sigaction previous[3];
static std::atomic<const Heap*> guarded[16];

static thread_local struct {
  int signal;
  void* address;
  bool write;
} fault;

// Where a faulted thread goes on: at the top of its stack, whose frames are not needed any more.
static void endFaulted() {
  if (fault.signal == SIGFPE) self->block->fail(self->site, "an integer was divided by zero, after this place");
  self->block->failAccess(fault.address, fault.write);
}

static void onFault(int signal, siginfo_t* info, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  constexpr long kPageFaultOfWrite = 2;
  if (self) {
    fault = {signal, info->si_addr, (registers[REG_ERR] & kPageFaultOfWrite) != 0};
    const auto top = reinterpret_cast<greg_t>(self->fiber.stackBottom) + greg_t(self->fiber.stackBytes);
    registers[REG_RSP] = top - 4096 - 8;  // as after a call
    registers[REG_RIP] = reinterpret_cast<greg_t>(&endFaulted);
    return;
  }
  for (const auto& heap : guarded) {
    const Heap* one = heap.load();
    if (signal != SIGSEGV || !one || !one->touches(info->si_addr, 1)) continue;
    char text[300];
    const int length = std::snprintf(text, sizeof text, "ewe emulator: the host touches device memory: %s\n", one->explain(info->si_addr, 1).c_str());
    if (write(STDERR_FILENO, text, size_t(length)) < 0) std::abort();
  }
  for (int i = 0; i < 3; i++) {
    if (kSignals[i] != signal) continue;
    if (previous[i].sa_flags & SA_SIGINFO) return previous[i].sa_sigaction(signal, info, context);
    if (previous[i].sa_handler != SIG_DFL && previous[i].sa_handler != SIG_IGN) return previous[i].sa_handler(signal);
    sigaction(signal, &previous[i], nullptr);  // and the same fault once more
  }
}

void catchFaults() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (int i = 0; i < 3; i++) {
      struct sigaction action = {};
      action.sa_sigaction = onFault;
      action.sa_flags = SA_SIGINFO | SA_ONSTACK;
      sigaction(kSignals[i], &action, &previous[i]);
    }
  });
  // The handler needs a stack of its own: that of the kernel may be what is at fault.
  static thread_local std::unique_ptr<char[]> stack;
  stack_t now = {};
  if (stack || sigaltstack(nullptr, &now) != 0 || !(now.ss_flags & SS_DISABLE)) return;
  constexpr size_t kBytes = 64 * 1024;
  stack = std::make_unique<char[]>(kBytes);
  now = {stack.get(), 0, kBytes};
  sigaltstack(&now, nullptr);
}

void guardHeap(const Heap* heap) {
  catchFaults();
  for (auto& slot : guarded) {
    const Heap* none = nullptr;
    if (slot.compare_exchange_strong(none, heap)) return;
  }
}

void forgetHeap(const Heap* heap) {
  for (auto& slot : guarded) {
    const Heap* one = heap;
    slot.compare_exchange_strong(one, nullptr);
  }
}

#endif

}  // namespace ewe::emulator

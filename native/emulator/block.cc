#include "emulator/block.h"

#include "emulator/faults.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(EWE_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif

namespace ewe::emulator {

thread_local Thread* self __attribute__((tls_model("initial-exec"))) = nullptr;

// ---- The kernels of this library

static const KernelEntry*& kernels() {
  static const KernelEntry* first = nullptr;
  return first;
}
Registered::Registered(const char* name, void (*run)(const void*), int argsBytes, int threads, int blocks)
    : KernelEntry{name, run, argsBytes, threads, blocks, const_cast<KernelEntry*>(kernels())} {
  kernels() = this;
}
const KernelEntry* firstKernel() { return kernels(); }

// ---- A block

constexpr size_t kPage = 4096, kSharedMost = 256 * 1024, kGuard = 1024 * 1024, kSharedAlignment = 128;
const char* const kBarrierName = "syncBlock";
const char* const kEndName = "its end";
// Told apart by their addresses.
const char* const kNamedBarriers[16] = {
    "",           "syncSome 1", "syncSome 2",  "syncSome 3",  "syncSome 4",  "syncSome 5",  "syncSome 6",  "syncSome 7",
    "syncSome 8", "syncSome 9", "syncSome 10", "syncSome 11", "syncSome 12", "syncSome 13", "syncSome 14", "syncSome 15"};
constexpr unsigned char kPoison = 0xFF;  // a NaN in every type

Block::Block() : stacks_(kMaxThreads), threads_(kMaxThreads), warps_(kMaxWarps) {
  void* memory = mmap(nullptr, kSharedMost + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("ewe emulator: no memory for a block");
    std::abort();
  }
  sharedMap_ = static_cast<char*>(memory);
}

Block::~Block() {
  for (Thread& thread : threads_) {
    discard(thread.fiber.tsan);
    discard(thread.copier);
  }
  munmap(sharedMap_, kSharedMost + 2 * kGuard);
}

// The memory ends at an unreadable page and begins on the first page that can be read, so that going far over its ends shows at once, and going a
// little over them shows in what was written there.
void Block::clearShared() {
  const size_t bytes = size_t(launch->sharedBytes), pages = (bytes + kPage - 1) / kPage * kPage;
  char* const end = sharedMap_ + kGuard + kSharedMost;
  if (pages != sharedOpen_) {
    mprotect(end - sharedOpen_, sharedOpen_, PROT_NONE);
    mprotect(end - pages, pages, PROT_READ | PROT_WRITE);
    sharedOpen_ = pages;
  }
  sharedBase_ = end - (bytes + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
#if defined(EWE_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(end - pages, pages);
#endif
  std::memset(end - pages, kPoison, pages);
#if defined(EWE_ADDRESS_SANITIZER)
  __asan_poison_memory_region(end - pages, pages);
  __asan_unpoison_memory_region(sharedBase_, bytes);
#endif
}

void Block::checkEdges() {
#if !defined(EWE_ADDRESS_SANITIZER)
  const char* const end = sharedMap_ + kGuard + kSharedMost;
  for (const char* at = end - sharedOpen_; at < end; at++) {
    if (at == sharedBase_) at += launch->sharedBytes;
    if (at == end || static_cast<unsigned char>(*at) == kPoison) continue;
    char text[200];
    std::snprintf(text, sizeof text, "%s: block (%d, %d, %d): shared memory was written outside its %d bytes, at offset %lld", launch->kernel->name,
                  x, y, z, launch->sharedBytes, static_cast<long long>(at - sharedBase_));
    failure_ = text;
    return;
  }
#endif
}

bool Block::run(const Launch& what, unsigned blockX, unsigned blockY, unsigned blockZ) {
  launch = &what;
  x = int(blockX);
  y = int(blockY);
  z = int(blockZ);
  failure_.clear();
  counts.blocks++;
  dice_.seed(what.settings->seed, blockX + uint64_t(what.grid.x) * (blockY + uint64_t(what.grid.y) * blockZ));

  clearShared();
  if (owner_ != pthread_self()) {  // a fiber stays on the thread of the host that it began on
    owner_ = pthread_self();
    for (int i = 0; i < prepared_; i++) discard(threads_[i].fiber.tsan);
    prepared_ = 0;
  }
  for (; prepared_ < what.threads; prepared_++) {
    Thread& thread = threads_[prepared_];
    stacks_.prepare(thread.fiber, prepared_, enter);
    thread.block = this;
    thread.index = prepared_;
  }
  for (int i = 0; i < what.threads; i++) {
    threads_[i].waits = nullptr;
    threads_[i].site = Site();
    threads_[i].copies.clear();
    threads_[i].groups.clear();
    threads_[i].committed = threads_[i].waited = 0;
  }
  for (int i = 0; i < what.threads / 32; i++) warps_[i].arrived = 0;
  for (Barrier& barrier : barriers_) barrier.arrived = 0;
  live_ = what.threads;
  ready_.start(what.settings->schedule, what.threads, &dice_);
  adoptThread(host_);
  catchFaults();
  orderRelease(&startOrder_);
  self_ = &threads_[ready_.take()];
  self = self_;
  switchFiber(host_, self_->fiber);
  self = nullptr;
  orderAcquire(&endOrder_);
  if (failure_.empty()) checkEdges();
  if (!failure_.empty()) {  // the fibers stopped somewhere in the kernel: they can't go on
    for (int i = 0; i < prepared_; i++) discard(threads_[i].fiber.tsan);
    prepared_ = 0;
  }
  return failure_.empty();
}

void Block::enter() {
  enteredFiber();
  self->block->runThreads();
}

void Block::runThreads() {
  for (;;) {
    orderAcquire(&startOrder_);
    launch->kernel->run(launch->args);
    orderRelease(&endOrder_);
    endThread();
  }
}

void Block::endThread() {
  Thread& thread = *self_;
  checkEnd(thread);
  live_--;
  thread.waits = kEndName;
  Barrier& barrier = barriers_[0];
  if (launch->settings->strict && barrier.arrived)
    fail(threads_[barrier.first].site, "thread %d ended while thread %d waits in %s", thread.index, barrier.first, threads_[barrier.first].waits);
  if (live_ && barrier.arrived == live_) {  // those that are left have all come
    barrier.arrived = 0;
    barrier.phase++;
    release(kBarrierName);
  }
  const int next = ready_.take();
  if (next >= 0) return goOn(threads_[next]);
  if (live_) failStuck();
  self_ = nullptr;
  switchFiber(thread.fiber, host_);
}

void Block::goOn(Thread& next) {
  Thread& from = *self_;
  self_ = &next;
  self = &next;
  if (&next != &from) switchFiber(from.fiber, next.fiber);
}

void Block::wait(const char* what, const Site& site) {
  self_->waits = what;
  self_->site = site;
  const int next = ready_.take();
  if (next < 0) failStuck();
  goOn(threads_[next]);
}

void Block::yield() {
  if (!ready_.chooses() || dice_.below(2)) return;
  ready_.add(self_->index);
  goOn(threads_[ready_.take()]);
}

// ---- Meetings

void Block::meetBlock(const Site& site) {
  Barrier& barrier = barriers_[0];
  Thread& thread = *self_;
  thread.site = site;
  if (barrier.arrived == 0) {
    barrier.first = thread.index;
  } else if (!same(site, threads_[barrier.first].site)) {
    fail(site, "barrier divergence: thread %d is at this barrier, thread %d at the one of %s", thread.index, barrier.first,
         describe(threads_[barrier.first].site).c_str());
  }
  char* const order = &barrier.order[barrier.phase & 1];
  orderRelease(order);
  if (++barrier.arrived < live_) {
    wait(kBarrierName, site);
  } else {
    if (launch->settings->strict && live_ < launch->threads) fail(site, "%d threads have ended before this barrier", launch->threads - live_);
    barrier.arrived = 0;
    barrier.phase++;
    release(kBarrierName);
    stepAside();
  }
  orderAcquire(order);
}

void Block::meetSome(int id, int count, const Site& site) {
  if (id < 1 || id > 15) fail(site, "named barrier %d: they are 1 to 15", id);
  if (count < 32 || count % 32 || count > launch->threads)
    fail(site, "named barrier %d of %d threads: a multiple of 32 up to the %d of the block", id, count, launch->threads);
  Barrier& barrier = barriers_[id];
  Thread& thread = *self_;
  thread.site = site;
  if (barrier.arrived == 0) {
    barrier.count = count;
    barrier.first = thread.index;
  } else if (barrier.count != count) {
    fail(site, "named barrier %d: thread %d waits for %d threads, thread %d for %d", id, thread.index, count, barrier.first, barrier.count);
  }
  char* const order = &barrier.order[barrier.phase & 1];
  orderRelease(order);
  if (++barrier.arrived < count) {
    wait(kNamedBarriers[id], site);
  } else {
    barrier.arrived = 0;
    barrier.phase++;
    release(kNamedBarriers[id]);
    stepAside();
  }
  orderAcquire(order);
}

void Block::meetWarp(const Instruction& instruction, const Site& site, const Post& post) {
  Thread& thread = *self_;
  const int lane = thread.index % 32, base = thread.index - lane;
  Warp& warp = warps_[thread.index / 32];
  thread.site = site;
  if (warp.arrived == 0) {
    warp.instruction = &instruction;
    warp.first = thread.index;
  } else if (warp.instruction != &instruction || !same(site, threads_[warp.first].site)) {
    fail(site, "the lanes of a warp diverge: thread %d is at %s here, thread %d at %s of %s", thread.index, instruction.name, warp.first,
         warp.instruction->name, describe(threads_[warp.first].site).c_str());
  }
  warp.post[lane] = post;
  if (++warp.arrived < 32) return wait(instruction.name, site);
  warp.arrived = 0;
  warp.phase++;
  instruction.run(warp, *this);
  for (int i = base; i < base + 32; i++) {
    if (i == thread.index) continue;
    threads_[i].waits = nullptr;
    ready_.add(i);
  }
  stepAside();
}

void Block::syncWarp(const Site& site) {
  static const Instruction instruction = {"syncWarp", [](Warp&, Block&) {}};
  Warp& warp = warps_[self_->index / 32];
  char* const order = &warp.order[warp.phase & 1];
  orderRelease(order);
  meetWarp(instruction, site, Post{});
  orderAcquire(order);
}

// All threads that wait for this can go on.
void Block::release(const char* what) {
  for (int i = 0; i < launch->threads; i++) {
    if (threads_[i].waits != what) continue;
    threads_[i].waits = nullptr;
    ready_.add(i);
  }
}

void Block::stepAside() {
  if (!ready_.chooses()) return;
  ready_.add(self_->index);
  goOn(threads_[ready_.take()]);
}

void Block::fence() {
  yield();
  orderRelease(&launch->fenceOrder);
  orderAcquire(&launch->fenceOrder);
}

// ---- Failures

void Block::stop(const std::string& text) {
  failure_ = text;
  Thread& thread = *self_;
  self_ = nullptr;
  switchFiber(thread.fiber, host_);
  std::abort();  // nobody goes on with a fiber of a failed block
}

void Block::fail(const Site& site, const char* format, ...) {
  char text[600];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  char where[300];
  std::snprintf(where, sizeof where, "%s: block (%d, %d, %d), thread %d, at %s: ", launch->kernel->name, x, y, z, self_->index,
                describe(site).c_str());
  stop(where + std::string(text));
}

// Nobody can go on. Most often one lane or thread took another way.
void Block::failStuck() {
  std::string text = std::string(launch->kernel->name) + ": block (" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) +
                     "): threads wait for ever: ";
  // Runs of threads that wait for the same thing.
  int parts = 0;
  for (int i = 0; i < launch->threads;) {
    const Thread& first = threads_[i];
    auto alike = [&](const Thread& t) { return t.waits == first.waits && (t.waits == kEndName || same(t.site, first.site)); };
    int last = i;
    while (last + 1 < launch->threads && alike(threads_[last + 1])) last++;
    if (++parts <= 6) {
      text += (parts > 1 ? "; " : "") + std::string(i == last ? "thread " : "threads ") + std::to_string(i);
      if (last > i) text += " to " + std::to_string(last);
      text += first.waits == kEndName ? " ended" : std::string(" in ") + first.waits + " at " + describe(first.site);
    }
    i = last + 1;
  }
  if (parts > 6) text += "; and " + std::to_string(parts - 6) + " groups more";
  stop(text);
}

std::string describe(const Site& site) {
  if (site.line() == 0) return "its beginning";
  const char* name = std::strrchr(site.file_name(), '/');
  return std::string(name ? name + 1 : site.file_name()) + ":" + std::to_string(site.line()) + ":" + std::to_string(site.column());
}

bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && (a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name()));
}

}  // namespace ewe::emulator

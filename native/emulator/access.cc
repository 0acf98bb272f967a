// What a kernel does with addresses that the emulator can judge: shared memory, asynchronous copies, matrix loads.
#include "emulator/block.h"

#if defined(EWE_THREAD_SANITIZER)
extern "C" void __tsan_write16_pc(void* address, void* pc);
extern "C" void __tsan_read16_pc(void* address, void* pc);
#endif

namespace ewe::emulator {

constexpr size_t kSharedEdge = 1024 * 1024;  // what lies this near to shared memory was meant to be there

static void noteWrite([[maybe_unused]] void* at, [[maybe_unused]] const void* pc) {
#if defined(EWE_THREAD_SANITIZER)
  __tsan_write16_pc(at, const_cast<void*>(pc));
#endif
}
static void noteRead([[maybe_unused]] const void* at, [[maybe_unused]] const void* pc) {
#if defined(EWE_THREAD_SANITIZER)
  __tsan_read16_pc(const_cast<void*>(at), const_cast<void*>(pc));
#endif
}

// ---- Addresses

void* Block::shared(size_t bytes, const char* type, const Site& site) {
  if (bytes > size_t(launch->sharedBytes)) fail(site, "%s needs %zu bytes of shared memory, the launch gave %d", type, bytes, launch->sharedBytes);
  return sharedBase_;
}

void Block::checkShared(const void* at, size_t bytes, const char* what, const Site& site) {
  const auto address = reinterpret_cast<uintptr_t>(at), base = reinterpret_cast<uintptr_t>(sharedBase_);
  if (address < base || address + bytes > base + size_t(launch->sharedBytes))
    fail(site, "%s: %p is not in the block's %d bytes of shared memory (offset %lld)", what, at, launch->sharedBytes,
         static_cast<long long>(address - base));
  if (address % bytes) fail(site, "%s: the shared address (offset %zu) is not aligned to %zu bytes", what, size_t(address - base), bytes);
}

void Block::checkGlobal(const void* at, size_t bytes, const char* what, const Site& site) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  if (address % bytes) fail(site, "%s: the address %p is not aligned to %zu bytes", what, at, bytes);
  if (address >= knownBegin_ && address + bytes <= knownEnd_) return;
  if (!launch->heap->find(at, bytes, knownBegin_, knownEnd_)) fail(site, "%s: %s", what, launch->heap->explain(at, bytes).c_str());
}

void Block::failAccess(const void* at, bool write) {
  const auto address = reinterpret_cast<uintptr_t>(at), base = reinterpret_cast<uintptr_t>(sharedBase_);
  const auto stack = reinterpret_cast<uintptr_t>(self_->fiber.stackBottom);
  const char* const what = write ? "write" : "read";
  if (address < stack && stack - address <= 4096)
    fail(self_->site, "the thread's stack of %zu bytes is too small, after this place", self_->fiber.stackBytes);
  if (address - base < kSharedEdge || base - address < kSharedEdge)
    fail(self_->site, "%s of %p after this place: offset %lld in the block's %d bytes of shared memory", what, at,
         static_cast<long long>(address - base), launch->sharedBytes);
  fail(self_->site, "%s after this place: %s", what, launch->heap->explain(at, 1).c_str());
}

// ---- Asynchronous copies: each thread has its own, in the order of issue, cut into groups

static void complete(CopyRequest& copy) {
  if (copy.done) return;
  copy.done = true;
  if (copy.from) __builtin_memcpy(copy.shared, copy.from, 16);
  else __builtin_memset(copy.shared, 0, 16);
}

void Block::copyAsync(void* shared, const void* from, bool valid, const Site& site) {
  const void* pc = __builtin_return_address(0);
  Thread& thread = *self_;
  checkShared(shared, 16, "copyAsync16", site);
  if (valid) checkGlobal(from, 16, "copyAsync16", site);
  if (reinterpret_cast<uintptr_t>(from) % 16) fail(site, "copyAsync16: the source %p is not aligned to 16 bytes", from);
  counts.asyncCopies++;
  // Whoever touches the bytes must come after a wait of this thread: the copy is ordered behind what the thread did, and before nothing else.
  orderRelease(&thread.copierOrder);
  void* const own = standIn(thread.copier);
  orderAcquire(&thread.copierOrder);
  if (valid) noteRead(from, pc);
  noteWrite(shared, pc);
  standBack(own);
  CopyRequest copy = {shared, valid ? from : nullptr, false};
  const Copies mode = launch->settings->copies;
  if (mode == Copies::eager || (mode == Copies::coin && dice_.below(2))) complete(copy);
  thread.copies.push_back(copy);
  thread.site = site;
}

void Block::commitCopies(const Site& site) {
  Thread& thread = *self_;
  if (thread.groups.size() == kMaxGroups) fail(site, "commitCopies: %d groups of copies are under way", kMaxGroups);
  void* const own = standIn(thread.copier);
  orderRelease(&thread.groupOrder[thread.committed++ % kMaxGroups]);
  standBack(own);
  thread.groups.push_back(int(thread.copies.size()));
}

// The copies of all groups but the latest `pending` are done after this.
void Block::waitCopies(int pending) {
  Thread& thread = *self_;
  const int finished = int(thread.groups.size()) - pending;
  if (finished <= 0) return;
  const int upTo = thread.groups[size_t(finished) - 1];
  for (int i = 0; i < upTo; i++) complete(thread.copies[size_t(i)]);
  for (int i = 0; i < finished; i++) orderAcquire(&thread.groupOrder[thread.waited++ % kMaxGroups]);
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + upTo);
  thread.groups.erase(thread.groups.begin(), thread.groups.begin() + finished);
  for (int& end : thread.groups) end -= upTo;
}

void Block::checkEnd(const Thread& thread) {
  if (!thread.copies.empty())
    fail(thread.site, "thread %d ended with %zu asynchronous copies that it did not wait for", thread.index, thread.copies.size());
}

// ---- Matrix loads

void Block::loadMatrices(const Instruction& instruction, const void* row, unsigned* out, const Site& site) {
  checkShared(row, 16, instruction.name, site);
  noteRead(row, __builtin_return_address(0));
  meetWarp(instruction, site, {0, 0, row, nullptr, out});
}

}  // namespace ewe::emulator

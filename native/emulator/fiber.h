// A fiber: a stack of its own and a point on it to go on from. The switch is written by hand (six registers): swapcontext() makes a system call each
// time, and a block of 256 threads that meets once switches 256 times.
#pragma once
#include <cstddef>

namespace ewe::emulator {

struct Fiber {
  void* stackPointer = nullptr;
  // What the sanitizers know of it.
  const void* stackBottom = nullptr;
  size_t stackBytes = 0;
  void* fakeStack = nullptr;
  void* tsan = nullptr;
};

// Stacks with an unreadable page below each, so that one that is too small shows at once.
class Stacks {
 public:
  explicit Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  // Makes the fiber start with entry(), which never returns, on the stack of this index.
  void prepare(Fiber& fiber, int index, void (*entry)());

 private:
  char* memory_;
  int count_;
};

// Saves where `from` is and goes on with `to`. Returns when somebody goes on with `from`.
void switchFiber(Fiber& from, Fiber& to);
// The first thing on a fiber that was switched to for the first time.
void enteredFiber();
// Makes `fiber` stand for the running thread of the host.
void adoptThread(Fiber& fiber);
void discard(void*& tsan);

// For ThreadSanitizer: what is done between these two is not done by the running fiber but by another one, of which nothing else exists. It is made
// when it is first needed.
void* standIn(void*& other);
void standBack(void* own);

// Order between fibers, for ThreadSanitizer: what was before release(x) is before what follows acquire(x).
void orderRelease(void* object);
void orderAcquire(void* object);

}  // namespace ewe::emulator

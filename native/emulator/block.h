// One block on one thread of the host: its CUDA threads are fibers, its barriers and warp instructions are meetings. What the twins
// (emulator/twins.h) call while a kernel runs. Under ThreadSanitizer only the kernels are instrumented, never these files: that is why nothing here
// is inline that writes what several fibers share.
#pragma once
#include <atomic>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "cuda/driver.h"
#include "emulator/fiber.h"
#include "emulator/heap.h"
#include "emulator/schedule.h"

namespace ewe::emulator {

using Site = std::source_location;  // where a kernel calls
class Block;

// What KERNEL leaves behind for each kernel.
struct KernelEntry {
  const char* name;
  void (*run)(const void* args);
  int argsBytes, threads, blocks;
  KernelEntry* next;
};
struct Registered : KernelEntry {
  Registered(const char* name, void (*run)(const void*), int argsBytes, int threads, int blocks);
};
const KernelEntry* firstKernel();

struct Counts {
  long long blocks = 0, products = 0, matrixLoads = 0, conflicts = 0, asyncCopies = 0;
};

constexpr int kMaxGroups = 16;  // of one thread that are not waited for

struct CopyRequest {
  void* shared;
  const void* from;  // null: zeros
  bool done;
};

struct Thread {
  Fiber fiber;
  Block* block;
  int index;
  const char* waits;  // for what, or null
  Site site;          // where it waits, or met last
  std::vector<CopyRequest> copies;
  std::vector<int> groups;  // copies before the end of each committed group
  void* copier;             // ThreadSanitizer takes the copies for the work of a thread beside this one
  char copierOrder, groupOrder[kMaxGroups];
  int committed, waited;  // groups
};

// A warp instruction: the last lane to come does it for all.
struct Post {
  unsigned long long value;
  int argument;
  const void *a, *b;
  void* out;
};
struct Warp {
  int arrived = 0;
  int first = 0;  // the lane that came first
  const struct Instruction* instruction = nullptr;
  Post post[32];
  int phase = 0;
  char order[2];
};
struct Instruction {
  const char* name;
  void (*run)(Warp& warp, Block& block);
};

struct Launch {
  const KernelEntry* kernel;
  cuda::Dim grid;
  int threads, sharedBytes;
  const void* args;
  const Settings* settings;
  const Heap* heap;
  mutable char fenceOrder = 0;
};

class Block {
 public:
  Block();
  ~Block();
  // Runs one block. False when it failed; failure() says how.
  bool run(const Launch& launch, unsigned x, unsigned y, unsigned z);
  const std::string& failure() const { return failure_; }

  // ---- what the running thread calls
  void meetBlock(const Site& site);
  void meetSome(int id, int count, const Site& site);
  void meetWarp(const Instruction& instruction, const Site& site, const Post& post);
  void syncWarp(const Site& site);
  Post& post() { return warps_[self_->index / 32].post[self_->index % 32]; }
  void fence();
  void yield();  // another may run, where the schedule goes by chance
  void* shared(size_t bytes, const char* type, const Site& site);
  void copyAsync(void* shared, const void* from, bool valid, const Site& site);
  void commitCopies(const Site& site);
  void waitCopies(int pending);
  void loadMatrices(const Instruction& instruction, const void* row, unsigned* out, const Site& site);
  // Named errors for an address that a kernel gives.
  void checkShared(const void* at, size_t bytes, const char* what, const Site& site);
  void checkGlobal(const void* at, size_t bytes, const char* what, const Site& site);
  [[noreturn]] void failAccess(const void* at, bool write);  // the processor refused it
  [[noreturn]] void fail(const Site& site, const char* format, ...) __attribute__((format(printf, 3, 4)));

  int x = 0, y = 0, z = 0;
  const Launch* launch = nullptr;
  Counts counts;

 private:
  struct Barrier {
    int arrived = 0, count = 0, phase = 0;
    int first = 0;
    char order[2];
  };

  static void enter();
  [[noreturn]] void runThreads();
  void wait(const char* what, const Site& site);
  void goOn(Thread& next);
  void release(const char* what);
  void stepAside();
  void clearShared();
  void checkEdges();
  void endThread();
  void checkEnd(const Thread& thread);
  [[noreturn]] void stop(const std::string& text);
  [[noreturn]] void failStuck();

  Stacks stacks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Barrier barriers_[16];
  Ready ready_;
  Dice dice_;
  Fiber host_;
  Thread* self_ = nullptr;
  int prepared_ = 0, live_ = 0;
  unsigned long owner_ = 0;
  char *sharedMap_, *sharedBase_ = nullptr;
  size_t sharedOpen_ = 0;  // bytes before the end of the map that can be read and written
  char startOrder_, endOrder_;
  size_t knownBegin_ = 0, knownEnd_ = 0;  // the allocation that was touched last
  std::string failure_;
};

// The running thread, for the twins.
extern thread_local Thread* self __attribute__((tls_model("initial-exec")));

std::string describe(const Site& site);
bool same(const Site& a, const Site& b);

}  // namespace ewe::emulator

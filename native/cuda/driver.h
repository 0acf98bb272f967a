// The CUDA driver as an interface: what the backend asks of it, and no more. cuda/libcuda is the real one; emulator/driver runs the same kernels on
// the CPU. Handles belong to the session that made them and end with it.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"

namespace ewe::cuda {

// What the plans of the kernels ask of a card (kernels/plan.h), and what a user is shown.
struct Card {
  std::string name;
  size_t memory;          // bytes in all
  int computeCapability;  // times ten: 80 for 8.0
  int sms;                // multiprocessors
  int sharedPerBlock;     // bytes that a block may ask for
  int sharedPerSm;        // bytes
  int registersPerSm, threadsPerSm, blocksPerSm;
  size_t l2;  // bytes
};

// The kernels of one source file as an image: what cuModuleLoadData takes. The emulator's kernels are linked into it: its images are empty.
struct Image {
  const char* stem;
  const void* data;
  size_t bytes;
};

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

using Stream = struct StreamHandle*;  // null is no stream
using Event = struct EventHandle*;
using Kernel = struct KernelHandle*;
using Graph = struct GraphHandle*;

// One card in use. Not for two threads at once. A failed call leaves the session usable unless it says Kind::device: then the card is lost for this
// session, and every later call fails alike. (Only load() says Kind::device of an image as well.)
class Session {
 public:
  virtual ~Session() = default;

  virtual Status memory(size_t* free, size_t* total) = 0;
  virtual Status allocate(void** memory, size_t bytes) = 0;      // aligned to 256 bytes; Kind::memory when there is not so much
  virtual Status release(void* memory) = 0;                      // when all work is done
  virtual Status allocateHost(void** memory, size_t bytes) = 0;  // page-locked: the copies from and to it do not wait for the host
  virtual Status releaseHost(void* memory) = 0;

  virtual Status load(const Image& image) = 0;
  // Null in *kernel, and success, when no loaded image has it. sharedBytes: the most that its launches will ask for.
  virtual Status find(const char* name, int sharedBytes, Kernel* kernel) = 0;

  virtual Status createStream(Stream* stream) = 0;  // ordered by nothing but events
  virtual Status destroyStream(Stream stream) = 0;
  virtual Status synchronize(Stream stream) = 0;
  virtual Status createEvent(Event* event) = 0;
  virtual Status destroyEvent(Event event) = 0;
  virtual Status record(Event event, Stream stream) = 0;
  virtual Status wait(Stream stream, Event event) = 0;
  virtual Status elapsed(Event from, Event to, float* milliseconds) = 0;  // waits for `to`

  // The order of a stream holds for all of these. Host memory must stay as it is until the copy is done.
  virtual Status copyIn(Stream stream, void* device, const void* host, size_t bytes) = 0;
  virtual Status copyOut(Stream stream, void* host, const void* device, size_t bytes) = 0;
  virtual Status copy(Stream stream, void* to, const void* from, size_t bytes) = 0;
  virtual Status fill(Stream stream, void* device, unsigned char value, size_t bytes) = 0;
  // args: one struct, copied before the call returns.
  virtual Status launch(Stream stream, Kernel kernel, Dim grid, Dim block, int sharedBytes, const void* args, size_t argsBytes) = 0;

  // Between begin and end the stream's work is recorded, not done.
  virtual Status beginCapture(Stream stream) = 0;
  virtual Status endCapture(Stream stream, Graph* graph) = 0;
  virtual Status launch(Stream stream, Graph graph) = 0;
  virtual Status destroyGraph(Graph graph) = 0;
};

class Driver {
 public:
  virtual ~Driver() = default;
  virtual Status cards(std::vector<Card>& out) = 0;
  // As the driver counts: 13000 for CUDA 13.0.
  virtual int version() const = 0;
  virtual Status open(int card, std::unique_ptr<Session>& out) = 0;
};

// Opens the driver of this machine, once per process. Without one the failure says why.
Status openDriver(Driver** out);

// What a driver that counts, the emulator, tells of a kernel.
struct KernelStatistics {
  char name[48];
  long long launches, blocks;
  long long products;     // matrix products of a warp
  long long matrixLoads;  // of a warp
  long long conflicts;    // bank conflicts of those: extra passes over shared memory
  long long asyncCopies;  // of a thread
};

}  // namespace ewe::cuda

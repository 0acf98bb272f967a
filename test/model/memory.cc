// What loading costs in memory, beside the weights themselves.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "model/weights.h"
#include "models.h"

namespace ewe::test {

// Memory of this process that belongs to no file, and that of mapped files, in bytes.
static void resident(double& own, double& mapped) {
  char text[200] = {};
  const int file = ::open("/proc/self/statm", O_RDONLY);
  const ssize_t got = ::read(file, text, sizeof text - 1);
  close(file);
  unsigned long size, all, shared;
  if (got <= 0 || std::sscanf(text, "%lu %lu %lu", &size, &all, &shared) != 3) throw std::runtime_error("can't read /proc/self/statm");
  const double page = double(sysconf(_SC_PAGESIZE));
  own = double(all - shared) * page;
  mapped = double(shared) * page;
}

namespace {

// Looks at the memory whenever something reaches the device.
struct Watched : Borrowed {
  double ownBefore, mappedBefore, ownMost = 0, mappedMost = 0, allocated = 0;
  int looks = 0;
  std::mutex mutex;
  explicit Watched(Ops& inner) : Borrowed(inner) { resident(ownBefore, mappedBefore); }
  Status store(const Matrix& m, int row, int column, int rows, int columns, const float* source, long long stride) override {
    look();
    return Borrowed::store(m, row, column, rows, columns, source, stride);
  }
  Status upload(void* device, const void* host, size_t bytes) override {
    look();
    return Borrowed::upload(device, host, bytes);
  }
  Status allocate(void** memory, size_t bytes) override {
    allocated += double(bytes);
    return Borrowed::allocate(memory, bytes);
  }

 private:
  void look() {
    std::lock_guard<std::mutex> lock(mutex);
    double own, mapped;
    resident(own, mapped);
    ownMost = std::max(ownMost, own - ownBefore);
    mappedMost = std::max(mappedMost, mapped - mappedBefore);
    looks++;
  }
};

}  // namespace

// The weights' own pages are touched first, so that they count before. Besides them, of the process's own memory: for each of the two threads a piece
// of at most 2^18 numbers as fp32 (1 MB) and as 16 bits (0.5 MB), and 12 bytes for each row of the largest tensor (0.1 MB): 3.2 MB, and as much again
// for what the allocator keeps. Of mapped files: the tensor that is being read, or the two that share the scales of an int8 matrix. So with int8
// weights the most memory at a time is their size and that of two tensors.
static void loading(Run& run, DType type) {
  if (!run.needs(type)) return;
  Spec s = smallSpec();
  s.layers = 4;
  s.hidden = 1024;
  s.headSize = 512;
  s.inner = 4096;
  s.vocab = 6000;
  const OwnModel model = ownModel(s, DType::bfloat16, false, [](Slot, int, size_t count) { return Floats(count, 0.5f); });
  const Buffer arena(run, weightBytes(s, run.ops, type).total());
  run.check(run.ops.upload(arena.data(), std::vector<char>(arena.bytes(), 1).data(), arena.bytes()));
  Threads team(2);
  ewe::Weights weights;
  const std::atomic<bool> never{false};
  Watched watched(run.ops);
  run.check(loadWeights(
      model.checkpoint, type, watched, team, arena.data(), weights, [](uint64_t, uint64_t) {}, never));
  const double table = double(s.vocab) * s.hidden * 2, down = double(s.hidden) * s.inner * 2, out = double(s.hidden) * s.hidden * 2;
  const double largest = std::max(table, type == DType::int8 ? down + out : down);
  char text[300];
  std::snprintf(text, sizeof text,
                "%d looks: %.1f MB of a file became %.1f MB of weights; besides them %.2f MB of the process's own, and %.1f MB of the file mapped at "
                "most (%.1f MB that are read together)",
                watched.looks, double(model.file->size()) * 1e-6, double(arena.bytes()) * 1e-6, watched.ownMost * 1e-6, watched.mappedMost * 1e-6,
                largest * 1e-6);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  watched.ownMost = 0;  // a sanitizer keeps what was freed, and its notes, in the same memory
#endif
  run.expect(watched.allocated == 0, "loading allocates nothing on the device");
  run.expect(watched.looks > 50 && watched.ownMost < 6.4e6, text);
  run.expect(watched.mappedMost < largest + 2e6 && watched.mappedMost > 1e6, text);
  run.expect(watched.ownMost + watched.mappedMost < 2 * std::max(table, down), text);
  run.figures = text;
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::bfloat16, DType::int8}) {
    const std::string name = std::string("memory/loading ") + nameOf(type);
    cases.test(name, [=](Run& run) { loading(run, type); });
    cases.bench(name, [=](Run& run) { loading(run, type); });
  }
});

}  // namespace ewe::test

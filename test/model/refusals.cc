// Checkpoints that must not be loaded: each is refused with an error that names what is wrong, before anything of it is read.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "models.h"

namespace ewe::test {

static Spec spec() {
  Spec s = smallSpec();
  s.hidden = 48;
  s.headSize = 24;
  s.inner = 50;
  s.vocab = 37;
  return s;
}

namespace {

// Counts what reaches the device.
struct Watched : Borrowed {
  std::atomic<int> writes{0};
  using Borrowed::Borrowed;
  Status store(const Matrix& m, int row, int column, int rows, int columns, const float* source, long long stride) override {
    writes++;
    return Borrowed::store(m, row, column, rows, columns, source, stride);
  }
  Status upload(void* device, const void* host, size_t bytes) override {
    writes++;
    return Borrowed::upload(device, host, bytes);
  }
};

}  // namespace

static Status load(Run& run, Ops& ops, const Checkpoint& checkpoint, const std::function<void(uint64_t, uint64_t)>& progress) {
  const Buffer arena(run, weightBytes(spec(), run.ops, DType::float32).total());
  ewe::Weights weights;
  Threads alone(1);
  const std::atomic<bool> never{false};
  return loadWeights(checkpoint, DType::float32, ops, alone, arena.data(), weights, progress, never);
}

namespace {

struct Refusal {
  const char* what;
  std::function<void(Checkpoint&)> spoil;
  const char* message;  // a part of it
};

}  // namespace

static const std::vector<Refusal>& refusals() {
  constexpr int64_t kHuge = int64_t(1) << 62;
  static auto tensor = [](Checkpoint& c) -> StoredTensor& { return placementOf(c, Slot::up).tensors[0]; };
  static auto blocks = [](Checkpoint& c) -> std::vector<int32_t>& { return placementOf(c, Slot::up).blocks; };
  static auto drop = [](Checkpoint& c, Slot slot, int layer) {
    c.placements.erase(
        std::find_if(c.placements.begin(), c.placements.end(), [&](const Placement& p) { return p.slot == slot && p.layer == layer; }));
  };
  static auto again = [](Checkpoint& c, Slot slot, int from, int to) {
    c.placements.push_back(placementOf(c, slot, from));
    c.placements.back().layer = to;
  };
  static const std::vector<Refusal> list = {
      {"a tensor one element beyond the file", [](Checkpoint& c) { placementOf(c, Slot::headBias).tensors[0].offset += 4; },
       "beyond the end of the file"},
      {"an offset near 2^64", [](Checkpoint& c) { tensor(c).offset = ~uint64_t(0) - 3; }, "beyond the end of the file"},
      {"strides whose product overflows", [](Checkpoint& c) { tensor(c).rowStride = kHuge; }, "beyond the end of the file"},
      {"rows whose bytes overflow", [](Checkpoint& c) { tensor(c).columnStride = kHuge / 40; }, "beyond the end of the file"},
      {"rows and strides that overflow together",
       [](Checkpoint& c) {
         tensor(c).rows = kHuge;
         tensor(c).rowStride = 4;
       },
       "beyond the end of the file"},
      {"a negative row stride", [](Checkpoint& c) { tensor(c).rowStride = -48; }, "strides -48"},
      {"a negative column stride", [](Checkpoint& c) { tensor(c).columnStride = -1; }, "strides 48, -1"},
      {"no rows", [](Checkpoint& c) { tensor(c).rows = 0; }, "has 0 rows"},
      {"a negative number of columns", [](Checkpoint& c) { tensor(c).columns = -48; }, "rows of -48"},
      {"a file that there is not", [](Checkpoint& c) { tensor(c).file = 1; }, "names file 1 of 1"},
      {"a negative file", [](Checkpoint& c) { tensor(c).file = -1; }, "names file -1 of 1"},
      {"columns that differ from the slot's", [](Checkpoint& c) { tensor(c).columns = 47; }, "has 47 columns, expected 48"},
      {"a row named twice", [](Checkpoint& c) { blocks(c) = {0, 0, 1, 0, 1, 50, 0, 3, 1, 7, 1, 1}; }, "row 7 is named twice"},
      {"a row that is not named", [](Checkpoint& c) { blocks(c) = {0, 0, 1, 0, 1, 49}; }, "49 of 50 rows are named"},
      {"no rows named", [](Checkpoint& c) { blocks(c) = {}; }, "0 of 50 rows are named"},
      {"source rows beyond the tensor", [](Checkpoint& c) { blocks(c) = {0, 1, 1, 0, 1, 50}; }, "out of range"},
      {"target rows beyond the slot", [](Checkpoint& c) { blocks(c) = {0, 0, 1, 1, 1, 50}; }, "out of range"},
      {"a negative source row", [](Checkpoint& c) { blocks(c) = {0, -1, 1, 0, 1, 50}; }, "out of range"},
      {"a negative target row", [](Checkpoint& c) { blocks(c) = {0, 0, 1, -1, 1, 50}; }, "out of range"},
      {"a block of no rows", [](Checkpoint& c) { blocks(c) = {0, 0, 1, 0, 1, 0}; }, "out of range"},
      {"a block of a negative count", [](Checkpoint& c) { blocks(c) = {0, 0, 1, 0, 1, -50}; }, "out of range"},
      {"a step that stands still", [](Checkpoint& c) { blocks(c) = {0, 0, 1, 0, 0, 50}; }, "out of range"},
      {"a step backwards", [](Checkpoint& c) { blocks(c) = {0, 49, -1, 0, 1, 50}; }, "out of range"},
      {"steps that overflow", [](Checkpoint& c) { blocks(c) = {0, 0, INT32_MAX, 0, INT32_MAX, INT32_MAX}; }, "out of range"},
      {"source rows beyond what a row number holds",
       [](Checkpoint& c) {
         tensor(c).rows = kHuge;
         tensor(c).rowStride = 0;
         blocks(c) = {0, 0, INT32_MAX, 0, 1, 50};
       },
       "out of range"},
      {"a block of a tensor that there is not", [](Checkpoint& c) { blocks(c)[0] = 1; }, "names tensor 1 of 1"},
      {"a block of a negative tensor", [](Checkpoint& c) { blocks(c)[0] = -1; }, "names tensor -1 of 1"},
      {"ragged blocks", [](Checkpoint& c) { blocks(c).pop_back(); }, "ragged blocks"},
      {"no tensors", [](Checkpoint& c) { placementOf(c, Slot::up).tensors.clear(); }, "has no tensors"},
      {"too few rows", [](Checkpoint& c) { placementOf(c, Slot::up).rows = 49; }, "is 49 x 48, expected 50 x 48"},
      {"too many columns", [](Checkpoint& c) { placementOf(c, Slot::up).columns = 49; }, "is 50 x 49, expected 50 x 48"},
      {"rows near 2^63", [](Checkpoint& c) { placementOf(c, Slot::up).rows = INT64_MAX; }, "expected 50 x 48"},
      {"a vector of two columns", [](Checkpoint& c) { placementOf(c, Slot::upBias).columns = 2; }, "is 50 x 2, expected 50 x 1"},
      {"a missing table", [](Checkpoint& c) { drop(c, Slot::embed, 0); }, "is missing in layer 0"},
      {"a missing head", [](Checkpoint& c) { drop(c, Slot::head, 0); }, "is missing in layer 0"},
      {"a matrix missing in the last layer", [](Checkpoint& c) { drop(c, Slot::down, 1); }, "is missing in layer 1"},
      {"a bias missing in one of the layers", [](Checkpoint& c) { drop(c, Slot::outBias, 0); }, "is missing in layer 0"},
      {"a second norm missing", [](Checkpoint& c) { drop(c, Slot::norm2Weight, 1); }, "is missing in layer 1"},
      {"a slot placed twice", [](Checkpoint& c) { again(c, Slot::qkv, 1, 1); }, "is placed twice in layer 1"},
      {"a layer beyond the model", [](Checkpoint& c) { again(c, Slot::qkv, 1, 2); }, "no place in layer 2"},
      {"a negative layer", [](Checkpoint& c) { again(c, Slot::qkv, 1, -1); }, "no place in layer -1"},
      {"the head of a second layer", [](Checkpoint& c) { again(c, Slot::head, 0, 1); }, "no place in layer 1"},
      {"a second norm where there is one for both", [](Checkpoint& c) { c.spec.sharedNorm = true; }, "no place in layer 0"},
      {"no files", [](Checkpoint& c) { c.files.clear(); }, "names file 0 of 0"},
      {"a file that is gone", [](Checkpoint& c) { c.files[0] += ".gone"; }, "cannot be opened"},
      {"a folder in the place of a file", [](Checkpoint& c) { c.files[0] = "test/fixtures"; }, "is not a regular file"},
      {"a device in the place of a file", [](Checkpoint& c) { c.files[0] = "/dev/null"; }, "is not a regular file"},
  };
  return list;
}

static void refused(Run& run, const Refusal& refusal) {
  const OwnModel model = randomModel(spec(), DType::float32, 1);
  Checkpoint spoiled = model.checkpoint;
  refusal.spoil(spoiled);
  Watched watched(run.ops);
  int reports = 0;
  const Status status = load(run, watched, spoiled, [&](uint64_t, uint64_t) { reports++; });
  run.expect(!status.ok(), "it was not refused");
  if (status.ok()) return;
  const Failure& failure = status.failure();
  run.expect(failure.kind == Kind::checkpoint, "the error is one of the checkpoint");
  run.expect(std::string(failure.message).find(refusal.message) != std::string::npos, std::string("the message is: ") + failure.message);
  run.expect(failure.tensor[0] || failure.file[0], "the error names the tensor or the file");
  run.expect(watched.writes == 0 && reports == 0, "nothing was read before everything had been checked");
}

static void otherFiles(Run& run) {
  if (!run.needs(DType::float32)) return;
  OwnModel model = randomModel(spec(), DType::float32, 1);
  const std::string other = model.file->path() + ".other", real = model.checkpoint.files[0];
  auto tried = [&] {
    model.checkpoint.files[0] = other;
    const Status status = load(run, run.ops, model.checkpoint, [](uint64_t, uint64_t) {});
    unlink(other.c_str());
    return status.ok() ? std::string("loaded") : std::string(status.failure().message);
  };
  run.expect(mkfifo(other.c_str(), 0600) == 0, "made a pipe");
  run.expect(tried() == "is not a regular file", "a pipe that nobody writes is refused, not waited for");
  run.expect(symlink(real.c_str(), other.c_str()) == 0 && tried() == "loaded", "a link to a file is followed, as in the Hub's cache");
  run.expect(symlink("/proc/self/fd", other.c_str()) == 0 && tried() == "is not a regular file", "a link to something else is refused");
  close(::open(other.c_str(), O_CREAT | O_WRONLY, 0600));
  run.expect(tried().find("beyond the end of the file (0 bytes)") != std::string::npos, "an empty file holds no tensor");
}

static Suite suite([](Cases& cases) {
  for (const Refusal& refusal : refusals()) {
    cases.test(std::string("refusals/") + refusal.what, [&refusal](Run& run) { refused(run, refusal); });
  }
  cases.test("refusals/pipes, links and empty files", otherFiles);
});

}  // namespace ewe::test

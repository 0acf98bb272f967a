// The backend's memory, order of work, recordings and failures, over the emulator's session: streams=shuffle runs what a call only queues as late as
// it may, so a copy that does not wait where it must is seen.
#include "cuda/backend.h"

#include <cstring>
#include <thread>

#include "cases.h"
#include "cuda/emulated.h"
#include "faulty.h"
#include "norm.h"

namespace ewe::test {
namespace {

struct Card {
  std::shared_ptr<Faulty::Fault> fault = std::make_shared<Faulty::Fault>([](const char*) { return Status(); });
  std::unique_ptr<Ops> ops;

  explicit Card(Run& run, const char* settings = "streams=shuffle", int path = 800) {
    cuda::Driver* driver = nullptr;
    run.check(cuda::openEmulator(path, &driver));
    run.check(cuda::configureEmulator(path, settings));
    std::vector<cuda::Card> cards;
    run.check(driver->cards(cards));
    std::unique_ptr<cuda::Session> session;
    run.check(driver->open(0, session));
    run.check(cuda::Cuda::create(std::make_unique<Faulty>(std::move(session), fault), cards.at(0), path, {}, ops));
  }
  // From now on every call of that name fails, or every call.
  void breakCalls(Kind kind, const char* name = nullptr) {
    *fault = [=](const char* call) { return name && std::strcmp(call, name) != 0 ? Status() : Status::fail(kind, "%s was told to fail", call); };
  }
};

Floats numbers(size_t count, float first) {
  Floats values(count);
  for (size_t i = 0; i < count; i++) values[i] = first + float(i % 1000);
  return values;
}

// Its own buffers on a card, and a norm between them.
struct Normed {
  Run run;
  Array x, weight, y;
  explicit Normed(Ops& ops)
      : run(ops, false),
        x(run.zeros(kWidth, DType::float32)),
        weight(run.array(Floats(kWidth, 1.f), DType::float32)),
        y(run.zeros(kWidth, DType::float32)) {}
  Norm op() const { return normOf(x.data(), weight, y); }
  // Signs + or - in turn: their norm is the same signs, scaled to one.
  void put(float sign) {
    Floats values(kWidth);
    for (size_t i = 0; i < values.size(); i++) values[i] = i % 2 ? -3 * sign : 3 * sign;
    run.check(run.ops.upload(x.data(), values.data(), values.size() * sizeof(float)));
    std::memset(values.data(), 0x55, values.size() * sizeof(float));  // upload is done with it
  }
  float first() { return run.read(y.data(), 1, DType::float32)[0]; }
};

bool isKind(const Status& status, Kind kind) { return !status.ok() && status.failure().kind == kind; }

void memory(Run& run) {
  Card card(run);
  void* at = nullptr;
  run.check(card.ops->allocate(&at, 1000));
  run.expect(reinterpret_cast<uintptr_t>(at) % 64 == 0, "an arena is not aligned to 64 bytes");
  Run on(*card.ops, false);
  run.same("fresh memory is zeroed", on.read(at, 250, DType::float32), Floats(250));
  card.ops->release(at);
  run.check(card.ops->allocate(&at, 0));
  card.ops->release(at);
}

// More than the page-locked memory takes at a time, and many uploads one after another, none of which waits.
void staging(Run& run) {
  Card card(run);
  Run on(*card.ops, false);
  const size_t large = cuda::kStagingBytes / sizeof(float) * 2 + 12345;
  const Floats values = numbers(large, 1);
  const Buffer buffer(on, large * sizeof(float));
  run.check(card.ops->upload(buffer.data(), values.data(), large * sizeof(float)));
  run.same("a large upload and download", on.read(buffer.data(), large, DType::float32), values);

  const size_t part = 100'003, count = 3 * cuda::kStagingBytes / sizeof(float) / part;
  const Buffer parts(on, part * count * sizeof(float));
  for (size_t i = 0; i < count; i++) {
    Floats piece = numbers(part, float(i));
    run.check(card.ops->upload(static_cast<float*>(parts.data()) + i * part, piece.data(), part * sizeof(float)));
    std::memset(piece.data(), 0x55, part * sizeof(float));
  }
  const Floats got = on.read(parts.data(), part * count, DType::float32);
  for (size_t i = 0; i < count; i++)
    run.same("upload " + std::to_string(i), Floats(got.begin() + long(i * part), got.begin() + long((i + 1) * part)), numbers(part, float(i)));
}

void order(Run& run) {
  Card card(run);
  Normed norm(*card.ops);
  norm.put(1);
  run.check(card.ops->norm(norm.op()));
  norm.put(-1);  // behind the op, which must still see what was there before
  run.near("the op between two uploads", {norm.first()}, {1}, {1e-4});
  run.check(card.ops->norm(norm.op()));
  run.near("the op behind both", {norm.first()}, {-1}, {1e-4});
}

void recordings(Run& run) {
  Card card(run);
  Ops& ops = *card.ops;
  Normed norm(ops);
  run.expect(ops.records(), "a card that records nothing");
  run.expect(!ops.recorded(7), "recorded before it was");
  run.expect(isKind(ops.replay(7), Kind::internal), "replayed what was never recorded");
  norm.put(1);
  run.check(ops.record(7));
  run.expect(isKind(ops.record(8), Kind::internal), "a recording within a recording");
  run.check(ops.norm(norm.op()));
  const float word = 5;
  run.expect(isKind(ops.upload(norm.x.device.data(), &word, 4), Kind::internal), "an upload within a recording");
  float out = 0;
  run.expect(isKind(ops.download(&out, norm.y.data(), 4), Kind::internal), "a download within a recording");
  run.check(ops.endRecord());
  run.near("the end of a recording does what was recorded", {norm.first()}, {1}, {1e-4});
  run.expect(isKind(ops.endRecord(), Kind::internal), "the end of no recording");
  run.expect(ops.recorded(7) && !ops.recorded(8), "what is recorded");
  norm.put(-1);
  run.check(ops.replay(7));
  run.near("a replay reads what is there now", {norm.first()}, {-1}, {1e-4});

  run.check(ops.record(9));
  run.check(ops.norm(norm.op()));
  ops.dropRecord();
  run.expect(!ops.recorded(9), "recorded though dropped");
  norm.put(1);
  run.near("a dropped recording does nothing", {norm.first()}, {-1}, {1e-4});

  Limits limits = {};
  limits.rows = limits.heads = limits.positions = 1;
  limits.width = limits.headSize = kWidth;
  limits.type = DType::float16;
  run.check(ops.reserve(limits));
  run.expect(!ops.recorded(7), "a recording outlived the memory it was made for");
}

// The memory of an op is reserved once; nothing is allocated by the ops.
void noGrowth(Run& run) {
  Card card(run);
  Normed norm(*card.ops);
  norm.put(1);
  long allocations = 0;
  *card.fault = [&](const char* call) {
    if (std::strncmp(call, "allocate", 8) == 0) allocations++;
    return Status();
  };
  for (int step = 0; step < 3; step++) {
    norm.put(float(step));
    run.check(card.ops->norm(norm.op()));
    norm.first();
  }
  run.expect(allocations == 0, std::to_string(allocations) + " allocations in steps");
}

void outOfMemory(Run& run) {
  Card card(run, "memory=16M");
  void *at = nullptr, *rest = nullptr;
  const Status status = card.ops->allocate(&at, size_t(1) << 40);
  run.expect(isKind(status, Kind::memory), "a terabyte was given");
  run.expect(!status.ok() && std::strstr(status.failure().message, "1099511627776"), "the failure tells no numbers");
  run.check(card.ops->allocate(&rest, 1 << 20));
  card.ops->release(rest);
  Normed norm(*card.ops);
  norm.put(1);
  run.check(card.ops->norm(norm.op()));
  run.near("the card works on", {norm.first()}, {1}, {1e-4});

  Limits limits = {};
  limits.rows = 1 << 16;
  limits.width = 1 << 14;
  limits.heads = limits.headSize = limits.positions = 1;
  limits.type = DType::float16;
  run.expect(isKind(card.ops->reserve(limits), Kind::memory), "scratch that does not fit was reserved");
  limits.rows = 1;
  run.check(card.ops->reserve(limits));
}

// Whatever call the card is lost in, that call and all later ones say so, nothing crashes, and another card and the host's memory work on.
void lost(Run& run) {
  for (const char* call : {"allocate", "fill", "copyIn", "copyOut", "synchronize", "find", "launch", "beginCapture", "endCapture", "launchGraph"}) {
    Card card(run), other(run);
    Ops& ops = *card.ops;
    Normed norm(ops);
    card.breakCalls(Kind::device, call);
    bool said = false;
    auto attempt = [&](Status status) {
      if (!status.ok()) run.expect(status.failure().kind == Kind::device, std::string(call) + ": another kind: " + status.failure().message);
      run.expect(!said || !status.ok(), std::string(call) + ": a call succeeded on a lost card");
      said = said || !status.ok();
    };
    void* at = nullptr;
    float word = 1;
    attempt(ops.allocate(&at, 64));
    attempt(ops.upload(norm.x.device.data(), &word, 4));
    attempt(ops.norm(norm.op()));
    Status recording = ops.record(1);
    const bool records = recording.ok();
    attempt(std::move(recording));
    attempt(ops.norm(norm.op()));
    if (records) attempt(ops.endRecord());
    attempt(ops.download(&word, norm.y.data(), 4));
    run.expect(said, std::string(call) + ": the loss went unnoticed");
    Normed healthy(*other.ops);
    healthy.put(1);
    run.check(other.ops->norm(healthy.op()));
    run.near(std::string(call) + ": another card", {healthy.first()}, {1}, {1e-4});
  }
}

// A kernel that reads what is not its own: the failure comes with a later call, and stays.
void faultOfAKernel(Run& run) {
  Card card(run);
  Normed norm(*card.ops);
  Norm op = norm.op();
  op.width = 8192;  // far beyond the buffers
  const Status launched = card.ops->norm(op);
  float word = 0;
  const Status downloaded = card.ops->download(&word, norm.y.data(), 4);
  run.expect(launched.ok() || launched.failure().kind == Kind::device, "the launch fails as another kind");
  run.expect(isKind(downloaded, Kind::device), "the fault was not told");
  run.expect(isKind(card.ops->norm(norm.op()), Kind::device), "a launch succeeded on a lost card");
}

void refusals(Run& run) {
  Card card(run);
  Normed norm(*card.ops);
  Norm op = norm.op();
  op.residualType = DType::float16;
  run.expect(isKind(card.ops->norm(op), Kind::device), "a plan's refusal was not told");
  norm.put(1);
  run.check(card.ops->norm(norm.op()));
  run.near("a refused op leaves the card as it was", {norm.first()}, {1}, {1e-4});
}

// Pieces that begin and end within tiles of the device's order, stored by two threads at once, each with rows of its own.
void matrices(Run& run, int path, DType type) {
  Card card(run, "streams=shuffle", path);
  Ops& ops = *card.ops;
  constexpr int n = 117, k = 203, split = 77;
  void* data = nullptr;
  run.check(ops.allocate(&data, ops.matrixBytes(n, k, type)));
  Run on(ops, false);
  const Array scale = on.array(Floats(n, 0.5f), DType::float32);
  const Matrix matrix = {data, nullptr, n, k, type, type == DType::int8 ? scale.floats() : nullptr};
  Floats values(size_t(n) * k), got(values.size());
  Random random(7);
  for (float& value : values) value = float(type == DType::int8 ? random.below(255) - 127 : rounded(random.normal(), type));
  Status failed[2];
  auto store = [&](int thread) {
    for (int again = 0; again < 20; again++) {  // so that they meet
      for (int row = 32 * thread; row < n; row += 64) {
        const int rows = std::min(32, n - row);
        const float* from = values.data() + size_t(row) * k;
        Status status = ops.store(matrix, row, split, rows, k - split, from + split, k);
        if (status.ok()) status = ops.store(matrix, row, 0, rows, split, from, k);
        if (!status.ok()) failed[thread] = std::move(status);
      }
    }
  };
  std::thread other(store, 1);
  store(0);
  other.join();
  for (Status& status : failed) run.check(std::move(status));
  for (float& value : values) value *= type == DType::int8 ? 0.5f : 1;
  run.check(ops.fetch(matrix, 0, n, got.data(), k));
  run.same(std::string(nameOf(type)) + " matrix on path " + std::to_string(path), got, values);
  const float one = 1;
  run.expect(isKind(ops.store(matrix, n, 0, 1, 1, &one, 1), Kind::internal), "a row beyond the last was stored");
  run.expect(isKind(ops.store(matrix, 0, k - 1, 1, 2, &one, 1), Kind::internal), "a column beyond the last was stored");
  ops.release(data);
}

void types(Run& run) {
  for (const int path : {700, 750, 800, 900}) {
    const cuda::Cuda device(path);
    const bool bfloat16 = path >= 800;
    run.expect(!device.multiplies(DType::float32) && device.multiplies(DType::float16) && device.multiplies(DType::int8), "dtypes of every card");
    run.expect(device.multiplies(DType::bfloat16) == bfloat16, "bfloat16 from 8.0 on");
    run.expect(device.activationType(DType::float16) == DType::float16, "float16 weights");
    run.expect(device.activationType(DType::int8) == (bfloat16 ? DType::bfloat16 : DType::float16), "int8 weights");
    run.expect(device.residualType(DType::int8) == DType::float32, "residual stream");
  }
}

const Suite suite([](Cases& cases) {
  cases.test("cuda/memory is aligned and zeroed", memory);
  cases.test("cuda/uploads pass through page-locked memory that is not used again too early", staging);
  cases.test("cuda/uploads and ops keep their order", order);
  cases.test("cuda/recordings", recordings);
  cases.test("cuda/no op allocates", noGrowth);
  cases.test("cuda/out of memory is typed, with numbers, and leaves the card usable", outOfMemory);
  cases.test("cuda/a lost card fails every later call alike, and only that card", lost);
  cases.test("cuda/a kernel's fault loses the card", faultOfAKernel);
  cases.test("cuda/a refused op does nothing", refusals);
  cases.test("cuda/types", types);
  for (int path : {700, 800}) {
    for (DType type : {DType::bfloat16, DType::float16, DType::int8}) {
      if (path < 800 && type == DType::bfloat16) continue;
      const std::string name = std::string("cuda/a matrix stored in pieces by two threads, ") + nameOf(type) + " on path " + std::to_string(path);
      cases.test(name, [=](Run& run) { matrices(run, path, type); });
    }
  }
});

}  // namespace
}  // namespace ewe::test

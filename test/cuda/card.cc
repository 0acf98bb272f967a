// The device under test when it fails, whichever it is: memory that there is not, and on a card, a kernel that reads what is nobody's. The process
// goes on, and so do the cases after these.
#include <cstring>

#include "cuda/backend.h"
#include "norm.h"

namespace ewe::test {
namespace {

bool isKind(const Status& status, Kind kind) { return !status.ok() && status.failure().kind == kind; }

void outOfMemory(Run& run) {
  Floats signs(kWidth);
  for (size_t i = 0; i < signs.size(); i++) signs[i] = i % 2 ? -3.f : 3.f;
  const Array x = run.array(signs, DType::float32), weight = run.array(Floats(kWidth, 1.f), DType::float32), y = run.zeros(kWidth, DType::float32);
  void* at = nullptr;
  const Status status = run.ops.allocate(&at, size_t(1) << 50);
  run.expect(isKind(status, Kind::memory), "a petabyte was given");
  run.expect(!status.ok() && std::strstr(status.failure().message, "1125899906842624"), "the failure tells no numbers");
  run.check(run.ops.norm(normOf(x.data(), weight, y)));
  run.near("an op behind it", run.read(y.data(), 2, DType::float32), {1, -1}, {1e-4, 1e-4});
}

void fault(Run& run) {
  const Array weight = run.array(Floats(kWidth, 1.f), DType::float32), y = run.zeros(kWidth, DType::float32);
  run.expect(true, "");
  if (!dynamic_cast<cuda::Cuda*>(&run.ops)) return;  // a processor's faults end the process
  run.lost = true;
  const Norm op = normOf(reinterpret_cast<const void*>(uintptr_t(4096)), weight, y);
  const Status launched = run.ops.norm(op);
  run.expect(launched.ok() || launched.failure().kind == Kind::device, "the launch fails as another kind");
  float word = 0;
  run.expect(isKind(run.ops.download(&word, y.data(), sizeof word), Kind::device), "the fault was not told");
  run.expect(isKind(run.ops.upload(y.device.data(), &word, sizeof word), Kind::device) ||
                 isKind(run.ops.download(&word, y.data(), sizeof word), Kind::device),
             "the card works on");
  void* at = nullptr;
  run.expect(!run.ops.allocate(&at, 64).ok(), "a lost card gave memory");
}

const Suite suite([](Cases& cases) {
  cases.test("card/memory that there is not is a typed failure with numbers, and the device works on", outOfMemory);
  cases.test("card/a kernel's fault is a typed failure", fault);
  cases.test("card/a device opened after a fault works", outOfMemory);
});

}  // namespace
}  // namespace ewe::test

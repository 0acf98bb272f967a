// What the card can do at best, by the kernels of kernels/ceiling.cu: every other bench is given as a share of these. `ewe-cases --bench ceiling
// --device cuda`
#include "cases.h"
#include "cuda/backend.h"
#include "kernels/ceiling.plan.h"

namespace ewe::test {
namespace {

constexpr size_t kBytes = size_t(1) << 30;  // many times the second-level cache of any card

cuda::Cuda* cardOf(Run& run) {
  auto* card = dynamic_cast<cuda::Cuda*>(&run.ops);
  if (card) return card;
  run.compared++;
  run.figures = "only on a card (--device cuda)";
  return nullptr;
}

void memory(Run& run, bool write) {
  cuda::Cuda* card = cardOf(run);
  if (!card) return;
  const Buffer from(run, kBytes), to(run, write ? kBytes : 64);
  const kernels::Ceiling args{from.data(), to.data(), (long long)(kBytes / 16), 0, 0x5EED5EEDu};
  const kernels::Launch plan = write ? kernels::planCopy(card->limits()) : kernels::planRead(card->limits());
  run.measure({double(kBytes) * (write ? 2 : 1), 0}, 1, [&](int) { return card->launch(plan, &args, sizeof args); });
}

void multiply(Run& run, DType type) {
  cuda::Cuda* card = cardOf(run);
  if (!card || !run.needs(type)) return;
  const Buffer to(run, 64);
  const kernels::Ceiling args{nullptr, to.data(), 0, 4096, 0x5EED5EEDu};
  const kernels::Launch plan = kernels::planMultiply(type, card->limits());
  const double warps = double(plan.gridX) * plan.threads / 32;
  run.measure({0, warps * kernels::flopsOfWarp(args.rounds)}, 1, [&](int) { return card->launch(plan, &args, sizeof args); });
}

const Suite suite([](Cases& cases) {
  cases.bench("ceiling/copy", [](Run& run) { memory(run, true); });
  cases.bench("ceiling/read", [](Run& run) { memory(run, false); });
  cases.bench("ceiling/multiply float16", [](Run& run) { multiply(run, DType::float16); });
  cases.bench("ceiling/multiply bfloat16", [](Run& run) { multiply(run, DType::bfloat16); });
});

}  // namespace
}  // namespace ewe::test

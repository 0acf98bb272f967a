// What the card can do at best, by the kernels of kernels/ceiling.cu: every other bench is given as a share of these. `ewe-cases --bench ceiling
// --device cuda`
#include "card.h"

namespace ewe::test {
namespace {

void memory(Run& run, bool write) {
  cuda::Cuda* card = cardOf(run);
  if (!card) return;
  const size_t bytes = run.small() ? size_t(1) << 20 : size_t(1) << 30;  // many times the second-level cache of any card
  const Buffer from = Made(run, *card, DType::float16, 1).buffer(bytes), to(run, write ? bytes : 64);
  const kernels::Ceiling args{from.data(), to.data(), (long long)(bytes / 16), 0, 0x5EED5EEDu};
  const kernels::Launch plan = write ? kernels::planCopy(card->limits()) : kernels::planRead(card->limits());
  run.measure({double(bytes) * (write ? 2 : 1), 0}, 1, [&](int) { return card->launch(plan, &args, sizeof args); });
}

void multiply(Run& run, DType type) {
  cuda::Cuda* card = cardOf(run);
  if (!card || !run.needs(type)) return;
  const Buffer to(run, 64);
  const kernels::Ceiling args{nullptr, to.data(), 0, run.small() ? 1 : 4096, 0x5EED5EEDu};
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

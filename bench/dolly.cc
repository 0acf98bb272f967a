// The ops of Dolly 3b, 7b and 12b on a card: a generated row, few, many, and a prompt. `ewe-cases --bench dolly --device cuda`
//
// And of recorded steps, what blocks cost that find no work and leave first: a recording serves at most a third more rows than there are, and up to
// twice, or at first many times, their positions. `ewe-cases --bench surplus --device cuda`
#include "dolly.h"

namespace ewe::test {
namespace {

void blockIn(Run& run, DollyLayer& layer) {
  const int width = layer.width();
  const Step step = layer.step();
  const std::vector<Matrix> qkv = layer.matrices(3 * width, width), up = layer.matrices(layer.inner(), width);
  const Array angle = run.zeros(size_t(layer.positions()) * size_t(layer.size.rotary / 2), DType::float32);
  BlockIn b = {};
  b.x = layer.residual();
  b.weight = b.bias = b.weight2 = b.bias2 = layer.one.floats();
  b.qkv = {layer.room(size_t(layer.planned * width * sizeOf(layer.type))),
           layer.cache(),
           {angle.floats(), angle.floats(), layer.size.rotary},
           layer.size.heads,
           0};
  b.hidden = layer.room(size_t(layer.planned) * size_t(layer.inner()) * size_t(sizeOf(layer.type)));
  b.step = step.rows;
  b.width = width;
  b.hiddenStride = layer.inner();
  b.eps = 1e-5f;
  b.activation = Activation::gelu;
  b.residualType = DType::float32;
  b.type = layer.type;
  b.qkvMatrix = qkv[0];
  b.up = up[0];
  BlockIn there = b;
  there.step.rows = layer.given.rows;
  const size_t copies = std::min(qkv.size(), up.size());
  run.measure(cost(there), int(copies), [&](int copy) {
    b.qkvMatrix = qkv[size_t(copy)];
    b.up = up[size_t(copy)];
    return run.ops.blockIn(b);
  });
}

void blockOut(Run& run, DollyLayer& layer) {
  const std::vector<Matrix> matrices = layer.matrices(layer.width(), layer.width() + layer.inner());
  BlockOut b = {layer.activations(size_t(layer.planned) * size_t(matrices[0].k)),
                matrices[0],
                layer.residual(),
                nullptr,
                layer.planned,
                layer.given.prompt ? layer.planned : 0,
                DType::float32,
                layer.type};
  if (layer.given.recordedRows) b.live = layer.live.data();
  BlockOut there = b;
  there.rows = layer.given.rows;
  run.measure(cost(there), int(matrices.size()), [&](int copy) {
    b.matrix = matrices[size_t(copy)];
    return run.ops.blockOut(b);
  });
}

void head(Run& run, DollyLayer& layer) {
  const std::vector<Matrix> matrices = layer.matrices(run.small() ? 1000 : kDollyVocab, layer.width());
  Linear l = {};
  l.x = layer.activations(size_t(layer.planned) * size_t(layer.width()));
  l.y = layer.room(size_t(layer.planned) * size_t(matrices[0].n) * 4);
  l.rows = layer.planned;
  l.xStride = layer.width();
  l.yStride = matrices[0].n;
  l.type = layer.type;
  l.outputType = l.residualType = DType::float32;
  l.matrix = matrices[0];
  run.measure(cost(l), int(matrices.size()), [&](int copy) {
    l.matrix = matrices[size_t(copy)];
    return run.ops.linear(l);
  });
}

void attend(Run& run, DollyLayer& layer) {
  const Step step = layer.step();
  Attend a = {};
  a.q = layer.activations(size_t(layer.planned) * size_t(layer.width()));
  a.cache = layer.cache();
  a.y = layer.room(size_t(layer.planned) * size_t(layer.width()) * size_t(sizeOf(layer.type)));
  a.step = step.rows;
  a.heads = layer.size.heads;
  a.yStride = layer.width();
  a.scale = float(1 / std::sqrt(double(layer.size.headSize)));
  a.maxPositions = layer.positions();
  a.type = layer.type;
  Attend there = a;
  there.step.rows = layer.given.rows;
  double contexts = 0;
  for (int row = 0; row < layer.given.rows; row++) contexts += step.position.host[size_t(row)] + 1;
  run.measure(cost(there, contexts, layer.given.prompt ? double(layer.given.rows) : contexts), 1, [&](int) { return run.ops.attend(a); });
}

void norms(Run& run, DollyLayer& layer) {
  const size_t bytes = size_t(layer.planned) * size_t(layer.width()) * size_t(sizeOf(layer.type));
  Norm n = {};
  n.x = layer.residual();
  n.weight = n.bias = n.weight2 = n.bias2 = layer.one.floats();
  n.y = layer.room(bytes);
  n.y2 = layer.room(bytes);
  n.rows = layer.planned;
  n.width = layer.width();
  n.eps = 1e-5f;
  n.residualType = DType::float32;
  n.type = layer.type;
  run.measure(cost(n), 1, [&](int) { return run.ops.norm(n); });
}

using Op = void (*)(Run&, DollyLayer&);

void bench(Run& run, Op op, const DollySize& size, DType weights, DollyStep step) {
  cuda::Cuda* card = cardOf(run);
  if (!card || !run.needs(weights)) return;
  if (run.small() && step.prompt) step.rows = std::min(step.rows, 70);
  DollyLayer layer(run, *card, size, weights, step);
  op(run, layer);
}

const Suite suite([](Cases& cases) {
  const std::pair<const char*, DollyStep> steps[] = {{"1 row", {1}}, {"8 rows", {8}}, {"64 rows", {64}}, {"prompt of 2048", {kDollyContext, true}}};
  const DType types[] = {DType::bfloat16, DType::float16, DType::int8};
  for (const DollySize& size : kDollySizes) {
    for (const auto& [what, step] : steps) {
      DollyStep few = step;
      few.context = 64;  // only attention reads the cache
      const auto add = [&, what = what](const char* name, Op op, DType type, const DollyStep& step) {
        cases.bench(std::string("dolly/") + size.name + " " + name + " " + nameOf(type) + ", " + what,
                    [=, &size](Run& run) { bench(run, op, size, type, step); });
      };
      for (DType type : types) add("BlockIn", blockIn, type, few);
      for (DType type : types) add("BlockOut", blockOut, type, few);
      for (DType type : {DType::bfloat16, DType::float16}) {
        add("attention", attend, type, step);
        add("norms", norms, type, few);
        if (!step.prompt) add("head", head, type, few);
      }
    }
    // Of each, once as it is and once recorded for more.
    const std::tuple<const char*, Op, DollyStep, DollyStep> pairs[] = {
        {"BlockIn, 33 rows of 48", blockIn, {33, false, 200}, {33, false, 200, 48}},
        {"BlockOut, 33 rows of 48", blockOut, {33, false, 200}, {33, false, 200, 48}},
        {"attention, 33 rows of 48", attend, {33, false, 512}, {33, false, 512, 48, 512}},
        {"attention, 1 row at 257 of 512", attend, {1, false, 257}, {1, false, 257, 1, 512}},
        {"attention, 1 row at 20 of 2048", attend, {1, false, 20}, {1, false, 20, 1, 2048}},
        {"attention, 16 rows at 20 of 2048", attend, {16, false, 20}, {16, false, 20, 16, 2048}}};
    for (const auto& [what, op, exact, recorded] : pairs) {
      for (bool surplus : {false, true}) {
        cases.bench(std::string("surplus/") + size.name + " " + what + (surplus ? ", recorded" : ", exact"),
                    [&size, op = op, step = surplus ? recorded : exact](Run& run) {
                      bench(run, op, size, run.ops.multiplies(DType::bfloat16) ? DType::bfloat16 : DType::float16, step);
                    });
      }
    }
  }
});

}  // namespace
}  // namespace ewe::test

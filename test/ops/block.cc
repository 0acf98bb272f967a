#include "block.h"

#include <algorithm>

namespace ewe::test {
namespace {  // other files of cases have structs of the same names

using namespace layers;

// Whether the device did it. A card writes whole pieces of four components: then it must refuse heads of another size.
static bool done(Run& run, const BlockIn& in) {
  Status status = run.ops.blockIn(in);
  if (status.ok()) return true;
  if (in.qkv.cache.headSize % 4 == 0 || status.failure().kind != Kind::device) run.check(std::move(status));
  run.expect(true, "");
  run.refused = true;
  return false;
}

static const char* classesOf(const Rows& rows) {
  return rows.promptRows == 0 ? ", generated" : rows.promptRows == rows.rows ? ", prompt" : ", prompt and generated";
}

static void blockIn(Run& run, const Shape& s, int promptSequences) {
  Layer l(run, s, Random(8));
  if (l.type == DType::bfloat16) run.bfloat16Products();
  const Step step = l.step(0, 1 << 20, promptSequences);
  l.in.step = step.rows;
  if (!done(run, l.in)) return;

  Doubles a, aError, b, bError;
  for (int row = 0; row < s.rows(); row++) {
    normReference(l, row, 0, a, aError);
    normReference(l, row, s.second ? 1 : 0, b, bError);
  }
  const Bounded projection = productReference(l.qkvMatrix, a, aError), up = productReference(l.up, b, bError);
  Bounded hidden, q, attention;
  for (int row = 0; row < s.rows(); row++) {
    for (int i = 0; i < l.hiddenStride; i++) {
      const size_t at = size_t(row) * s.inner + i;
      if (i >= s.inner) {
        hidden.push(0, 0);
        continue;
      }
      const double y = activated(up.value[at], s.activation);
      hidden.push(y, stored(l.type, y, up.error[at] * slopeOf(s.activation) + activationError(up.value[at], s.activation)));
    }
  }
  size_t row = 0;
  for (int length : s.lengths) {
    Bounded keys, values, queries;
    for (int position = 0; position < length; position++, row++) {
      for (int c = 0; c < s.qkv(); c++) {
        const int head = c / s.headSize, component = c % s.headSize;
        auto clipped = [&](int column) {
          const double v = projection.value[row * s.qkv() + column];
          return s.clip > 0 ? std::min(double(s.clip), std::max(-double(s.clip), v)) : v;
        };
        double value = clipped(c), error = projection.error[row * s.qkv() + c];
        if (head < s.heads + s.kvHeads && component < s.rotary) {
          const size_t at = size_t(position) * (s.rotary / 2) + component / 2;
          const int other = component % 2 ? c - 1 : c + 1;
          const double cosine = l.cos.host[at], sine = (component % 2 ? 1 : -1) * l.sin.host[at];
          const double first = value * cosine, second = clipped(other) * sine;
          error = error * std::fabs(cosine) + projection.error[row * s.qkv() + other] * std::fabs(sine) +
                  2 * kUnit * (std::fabs(first) + std::fabs(second));
          value = first + second;
        }
        (head < s.heads ? queries : head < s.heads + s.kvHeads ? keys : values).push(value, stored(l.type, value, error));
      }
    }
    q.value.insert(q.value.end(), queries.value.begin(), queries.value.end());
    q.error.insert(q.error.end(), queries.error.begin(), queries.error.end());
    attentionReference({s.heads, s.kvHeads, s.headSize, l.type}, 0, length, queries, keys, values, attention);
  }
  const std::string rows = classesOf(step.rows);
  run.near("hidden" + rows, run.read(l.hidden.data(), hidden.value.size(), l.type), hidden.value, hidden.error);
  run.near("q" + rows, run.read(l.q.data(), q.value.size(), l.type), q.value, q.error);
  run.near("attention over what it wrote" + rows, l.attended(step.rows), attention.value, attention.error);
}

// Of all classes: none of a prompt, all, and where there are more, the first.
template <class F>
static void forClasses(Run& run, const Shape& s, F f) {
  if (!run.needs(s.weights)) return;
  const int sequences = int(s.lengths.size());
  f(run, s, 0);
  f(run, s, sequences);
  if (sequences > 1) f(run, s, 1);
}

// A BlockIn is Norm, Linear with the Qkv epilogue and Linear with an activation, bit for bit.
static void sameAsParts(Run& run, const Shape& s, int promptSequences) {
  Layer l(run, s, Random(9));
  if (l.type == DType::bfloat16) run.bfloat16Products();
  const Step step = l.step(0, 1 << 20, promptSequences);
  l.in.step = step.rows;
  if (!done(run, l.in)) return;
  const size_t rows = s.rows();
  const Floats hidden = run.read(l.hidden.data(), rows * l.hiddenStride, l.type), q = run.read(l.q.data(), rows * s.heads * s.headSize, l.type);
  const Floats attention = l.attended(step.rows);

  Layer parts(run, s, Random(9));
  const Array a = run.zeros(rows * s.width, l.type), b = run.zeros(rows * s.width, l.type);
  Norm norm = {
      parts.x.data(), nullptr, parts.in.weight, parts.in.bias,  a.data(), parts.in.weight2, parts.in.bias2, s.second ? b.data() : nullptr, nullptr,
      int(rows),      s.width, parts.in.eps,    DType::float32, l.type};
  run.check(run.ops.norm(norm));
  Linear linear = {};
  linear.x = a.data();
  linear.matrix = parts.in.qkvMatrix;
  linear.qkv = parts.in.qkv;
  linear.step = step.rows;
  linear.rows = int(rows);
  linear.promptRows = step.rows.promptRows;
  linear.xStride = s.width;
  linear.type = linear.outputType = l.type;
  run.check(run.ops.linear(linear));
  Linear up = {};
  up.x = s.second ? b.data() : a.data();
  up.matrix = parts.in.up;
  up.y = parts.hidden.data();
  up.rows = int(rows);
  up.promptRows = step.rows.promptRows;
  up.xStride = s.width;
  up.yStride = parts.hiddenStride;
  up.activation = s.activation;
  up.type = up.outputType = l.type;
  run.check(run.ops.linear(up));
  const std::string classes = classesOf(step.rows);
  run.same("hidden" + classes, hidden, run.read(parts.hidden.data(), hidden.size(), l.type));
  run.same("q" + classes, q, run.read(parts.q.data(), q.size(), l.type));
  run.same("attention over what it wrote" + classes, attention, parts.attended(step.rows));
}

// Chunks of any size give the bits of one step: also those small enough that the products normalise their input themselves.
static void sameBits(Run& run, const Shape& s, int promptSequences) {
  Layer l(run, s, Random(10));
  if (l.type == DType::bfloat16) run.bfloat16Products();
  const int length = s.lengths[0], width = s.heads * s.headSize;
  Floats allHidden, allQ, allAttention;
  for (int size : {length, 33, 12, 7, 5, 4, 2, 1}) {
    Floats hidden, q, attention;
    for (int first = 0; first < std::min(length, 4 * size); first += size) {
      const Step step = l.step(first, size, promptSequences);
      l.in.x = l.x.floats() + size_t(first) * s.width;
      l.in.step = step.rows;
      if (!done(run, l.in)) return;
      const size_t rows = step.rows.rows;
      for (auto& [to, from] : {std::pair(&hidden, run.read(l.hidden.data(), rows * l.hiddenStride, l.type)),
                               std::pair(&q, run.read(l.q.data(), rows * width, l.type)), std::pair(&attention, l.attended(step.rows))})
        to->insert(to->end(), from.begin(), from.end());
    }
    const std::string chunks = (promptSequences ? " of a prompt" : " of generated rows") + std::string(" in chunks of ") + std::to_string(size);
    if (allHidden.empty()) {
      allHidden = hidden;
      allQ = q;
      allAttention = attention;
      run.near("hidden" + chunks, hidden, Doubles(hidden.begin(), hidden.end()), Doubles(hidden.size(), 0));
      run.near("attention" + chunks, attention, Doubles(attention.begin(), attention.end()), Doubles(attention.size(), 0));
    }
    run.same("hidden" + chunks, hidden, Floats(allHidden.begin(), allHidden.begin() + hidden.size()));
    run.same("q" + chunks, q, Floats(allQ.begin(), allQ.begin() + q.size()));
    run.same("attention" + chunks, attention, Floats(allAttention.begin(), allAttention.begin() + attention.size()));
  }
}

// Of a recorded step only the first *live rows are there: what the others' positions and pages say is nobody's, and nothing of theirs is written.
static void live(Run& run, const Shape& s, int rows) {
  if (!run.needsRecordings() || !run.needs(s.weights)) return;
  Layer l(run, s, Random(14));
  if (l.type == DType::bfloat16) run.bfloat16Products();
  Step step = l.step(0, 1 << 20, 0);
  l.in.step = step.rows;
  run.check(run.ops.blockIn(l.in));
  const size_t all = step.rows.rows, q = all * s.heads * s.headSize;
  const Floats hidden = run.read(l.hidden.data(), all * l.hiddenStride, l.type), queries = run.read(l.q.data(), q, l.type);

  Layer part(run, s, Random(14));
  Ints positions = step.position.host, sequences = step.sequence.host;
  for (size_t i = rows; i < all; i++) positions[i] = sequences[i] = 1 << 28;
  const IntArray position = run.ints(positions), sequence = run.ints(sequences), count = run.ints({rows});
  part.in.step = step.rows;
  part.in.step.position = position.data();
  part.in.step.sequence = sequence.data();
  part.in.step.live = count.data();
  run.check(run.ops.blockIn(part.in));
  Floats wantHidden = hidden, wantQueries = queries;
  std::fill(wantHidden.begin() + rows * l.hiddenStride, wantHidden.end(), 0.f);
  std::fill(wantQueries.begin() + rows * s.heads * s.headSize, wantQueries.end(), 0.f);
  run.same("hidden", run.read(part.hidden.data(), wantHidden.size(), l.type), wantHidden);
  run.same("q", run.read(part.q.data(), wantQueries.size(), l.type), wantQueries);
}

static void blockOut(Run& run, DType weightType, int rows, int n, int k) {
  if (!run.needs(weightType)) return;
  Random random(11);
  const DType type = run.ops.activationType(weightType);
  if (type == DType::bfloat16) run.bfloat16Products();
  Limits limits = {};
  limits.rows = rows;
  limits.width = k;
  limits.heads = limits.headSize = 1;
  limits.type = type;
  run.check(run.ops.reserve(limits));
  const Weights w = run.normalWeights(random, n, k, weightType, true);
  const Array x = run.normals(random, size_t(rows) * k, type), residual = run.normals(random, size_t(rows) * n, DType::float32);
  Bounded want = productReference(w, Doubles(x.host.begin(), x.host.end()), Doubles(x.host.size(), 0));
  for (size_t i = 0; i < want.value.size(); i++) {
    want.value[i] += residual.host[i];
    want.error[i] += kUnit * (std::fabs(want.value[i]) + want.error[i]);
  }
  for (int promptRows : {0, rows / 2, rows}) {
    const Array y = run.array(residual.host, DType::float32);
    const BlockOut b = {x.data(), w.matrix, y.data(), nullptr, rows, promptRows, DType::float32, type};
    run.check(run.ops.blockOut(b));
    run.near("y with " + std::to_string(promptRows) + " prompt rows", run.read(y.data(), want.value.size(), DType::float32), want.value, want.error);
  }
}

static void bench(Run& run, DType weightType, int rows, int layers) {
  const Shape s = {12, 12, 64, 16, 768, 3072, weightType, Ints(rows > 8 ? 1 : rows, rows > 8 ? rows : 1)};
  Layer l(run, s, Random(12));
  const Step step = l.step(0, 1 << 20, rows > 8 ? 1 : 0);
  l.in.step = step.rows;
  std::vector<char> qkv(l.qkvMatrix.data.bytes()), up(l.up.data.bytes());
  run.check(run.ops.download(qkv.data(), l.in.qkvMatrix.data, qkv.size()));
  run.check(run.ops.download(up.data(), l.in.up.data, up.size()));
  std::vector<Buffer> copies;
  for (int i = 0; i < layers; i++) {
    copies.emplace_back(run, qkv.size());
    run.check(run.ops.upload(copies.back().data(), qkv.data(), qkv.size()));
    copies.emplace_back(run, up.size());
    run.check(run.ops.upload(copies.back().data(), up.data(), up.size()));
  }
  run.measure(cost(l.in), layers, [&](int copy) {
    l.in.qkvMatrix.data = copies[copy * 2].data();
    l.in.up.data = copies[copy * 2 + 1].data();
    return run.ops.blockIn(l.in);
  });
}

// What a step of a very small model costs beside its arithmetic.
static void benchSmall(Run& run, DType weightType) {
  const Shape s = {6, 6, 32, 8, 192, 768, weightType, {1}};
  Layer l(run, s, Random(13));
  const Step step = l.step(0, 1, 0);
  l.in.step = step.rows;
  run.measure(cost(l.in), 1, [&](int) { return run.ops.blockIn(l.in); });
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
    const std::string prefix = std::string("block/") + nameOf(type) + " ";
    const Shape plain = {2, 2, 16, 8, 40, 96, type, {5}}, ragged = {3, 3, 16, 6, 37, 51, type, {1, 17, 3}};
    const Shape even = {3, 3, 14, 6, 37, 51, type, {1, 17, 3}}, odd = {3, 3, 7, 4, 33, 18, type, {9, 2}};
    Shape one = plain, shared = {4, 2, 16, 16, 64, 70, type, {20, 1}}, clipped = plain;
    one.lengths = {1};
    one.second = false;
    shared.second = false;
    shared.activation = Activation::geluTanh;
    clipped.clip = 0.5f;
    const Shape whole = {2, 2, 64, 64, 128, 512, type, {120}};
    for (const auto& [name, shape] :
         {std::pair("a decode row, one norm", one), std::pair("few rows", plain), std::pair("ragged rows", ragged), std::pair("heads of 14", even),
          std::pair("heads of odd size", odd), std::pair("shared key-value heads, whole rotation", shared), std::pair("clipped", clipped),
          std::pair("many rows", whole)}) {
      cases.test(prefix + "in, " + name, [shape = shape](Run& run) { forClasses(run, shape, blockIn); });
      cases.test(prefix + "in is its parts, " + name, [shape = shape](Run& run) { forClasses(run, shape, sameAsParts); });
    }
    // Many outputs, so that cards choose each of their tiles for some of these.
    for (int rows : {64, 100, 204, 588}) {
      cases.test(prefix + "in is its parts, " + std::to_string(rows) + " rows of many outputs", [=](Run& run) {
        const Shape s = {1, 1, 80, 20, 72, 4000, type, {rows}};
        if (!run.needs(type)) return;
        sameAsParts(run, s, 1);
        if (rows <= 100) sameAsParts(run, s, 0);
      });
    }
    cases.test(prefix + "in, same bits in any chunks", [=](Run& run) {
      Shape s = whole;
      s.lengths = {100};
      forClasses(run, s, sameBits);
    });
    cases.test(prefix + "in, same bits in any chunks, odd sizes", [=](Run& run) {
      Shape s = odd;
      s.lengths = {100};
      forClasses(run, s, sameBits);
    });
    cases.test(prefix + "in, same bits in any chunks, width of no whole pieces", [=](Run& run) {
      Shape s = ragged;
      s.lengths = {50};
      forClasses(run, s, sameBits);
    });
    for (int rows : {4, 12, 30, 70}) {
      cases.test(prefix + "in, only some of " + std::to_string(rows) + " rows live", [=](Run& run) {
        Shape s = plain;
        s.width = 64;
        s.lengths = Ints(rows, 1);
        live(run, s, rows / 2);
      });
    }
    for (int rows : {1, 6, 7, 40})
      cases.test(prefix + "out " + std::to_string(rows) + " rows", [=](Run& run) { blockOut(run, type, rows, 72, 384); });
    cases.test(prefix + "out ragged", [=](Run& run) { blockOut(run, type, 9, 33, 165); });

    for (int rows : {1, 8, 512})
      cases.bench(prefix + "in " + std::to_string(rows) + " rows of 768", [=](Run& run) { bench(run, type, rows, rows > 8 ? 1 : 30); });
    cases.bench(prefix + "in 1 row of 192", [=](Run& run) { benchSmall(run, type); });
  }
});

}  // namespace
}  // namespace ewe::test

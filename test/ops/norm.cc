#include <algorithm>

#include "cases.h"

namespace ewe::test {
namespace {  // other files of cases have structs of the same names

struct Shape {
  int rows, width;
  DType type;
  bool bias, second, select;
  double offset;
};

// Whether the device norms into this type: float32, or what it has for activations. Else it says so.
static bool has(Run& run, DType type) {
  if (type == DType::float32 || (run.ops.multiplies(type) && run.ops.activationType(type) == type)) return true;
  const Array x = run.zeros(16, DType::float32);
  const Status status =
      run.ops.norm({x.data(), nullptr, x.floats(), nullptr, x.data(), nullptr, nullptr, nullptr, nullptr, 1, 16, 1, DType::float32, type});
  run.expect(!status.ok(), std::string("a norm into ") + nameOf(type) + " was made by a device that has no such activations");
  run.refused = run.failures.empty();
  return false;
}

// The inputs and outputs of a norm, on the device.
struct Case {
  Case(Run& run, const Shape& s)
      : shape(s),
        random(2),
        from(s.select ? s.rows + 3 : s.rows),
        x(run.normals(random, size_t(from) * s.width, DType::float32, 1.5, s.offset)),
        weight{run.normals(random, s.width, DType::float32, 0.3, 1), run.normals(random, s.width, DType::float32, 0.3, 1)},
        bias{run.normals(random, s.width, DType::float32), run.normals(random, s.width, DType::float32)},
        y{run.array(Floats(size_t(s.rows) * s.width, 77), s.type), run.array(Floats(size_t(s.rows) * s.width, 77), s.type)},
        select(run.ints(chosen())) {
    op.x = x.data();
    op.select = s.select ? select.data() : nullptr;
    op.weight = weight[0].floats();
    op.bias = s.bias ? bias[0].floats() : nullptr;
    op.y = y[0].data();
    if (s.second) {
      op.weight2 = weight[1].floats();
      op.bias2 = s.bias ? bias[1].floats() : nullptr;
      op.y2 = y[1].data();
    }
    op.rows = s.rows;
    op.width = s.width;
    op.eps = 1e-5f;
    op.residualType = DType::float32;
    op.type = s.type;
  }
  Ints chosen() const {
    Ints rows(size_t(shape.rows));
    for (int i = 0; i < shape.rows; i++) rows[size_t(i)] = shape.select ? (i * 7 + 2) % from : i;
    return rows;
  }

  Shape shape;
  Random random;
  int from;
  Array x, weight[2], bias[2], y[2];
  IntArray select;
  Norm op = {};
};

static void layerNorm(Run& run, const Shape& s) {
  if (!has(run, s.type)) return;
  const Case c(run, s);
  run.check(run.ops.norm(c.op));
  for (int which = 0; which < (s.second ? 2 : 1); which++) {
    Doubles want, bound;
    for (int row : c.select.host) {
      const float* in = c.x.host.data() + size_t(row) * s.width;
      double mean = 0, variance = 0;
      for (int i = 0; i < s.width; i++) mean += in[i];
      mean /= s.width;
      for (int i = 0; i < s.width; i++) variance += (in[i] - mean) * (in[i] - mean);
      variance /= s.width;
      const double scale = 1 / std::sqrt(variance + double(c.op.eps));
      for (int i = 0; i < s.width; i++) {
        const double w = c.weight[which].host[i], b = s.bias ? c.bias[which].host[i] : 0, d = (in[i] - mean) * scale, value = d * w + b;
        want.push_back(value);
        // In units of 2^-24. The sums run over chains of at most width / 32 roundings and a tree of 8; about eight more operations follow. Those of
        // the mean leave an error relative to the deviations, of which there is one at 1, since the mean's own rounding is made good (rest); those of
        // the variance one relative to d, halved by the root. The sum with the bias rounds once, and the result when it is stored.
        const double exact = kUnit * ((s.width / 32 + 16) * std::fabs(w) * (std::fabs(d) + 1) + std::fabs(b) + std::fabs(value));
        // A 16-bit result is rounded from that number once more, by half a unit in its last place; below 2^-14 those of float16 lie 2^-24 apart.
        const double least = s.type == DType::float16 ? 0x1p-25 : 0;
        bound.push_back(exact + (s.type == DType::float32 ? 0 : std::max(least, unitOf(s.type) * (std::fabs(value) + exact))));
      }
    }
    run.near(which ? "y2" : "y", run.read(c.y[which].data(), want.size(), s.type), want, bound);
  }
}

// Row by row and all together, alone and beside a second norm: the same bits.
static void rows(Run& run, int width) {
  const Case c(run, {6, width, DType::float32, true, true, false, 0});
  run.check(run.ops.norm(c.op));
  const Floats together = run.read(c.y[0].data(), size_t(6 * width), DType::float32);
  Floats alone;
  for (int row = 0; row < 6; row++) {
    Norm one = c.op;
    one.x = c.x.floats() + row * width;
    one.rows = 1;
    one.weight2 = one.bias2 = nullptr;
    one.y2 = nullptr;
    run.check(run.ops.norm(one));
    const Floats y = run.read(c.y[0].data(), size_t(width), DType::float32);
    alone.insert(alone.end(), y.begin(), y.end());
  }
  run.same("rows alone", alone, together);
}

static void live(Run& run) {
  if (!run.ops.records()) {  // counts of live rows are for recordings
    run.expect(!run.ops.record(1).ok(), "a device that says it records nothing does");
    run.refused = true;
    return;
  }
  const int width = 24;
  Case c(run, {5, width, DType::float32, true, true, true, 0});
  const IntArray count = run.ints({2});
  run.check(run.ops.norm(c.op));
  Floats want[2];
  for (int i : {0, 1}) {
    want[i] = run.read(c.y[i].data(), size_t(5 * width), DType::float32);
    std::fill(want[i].begin() + 2 * width, want[i].end(), 77.0f);
    run.check(run.ops.upload(c.y[i].data(), Floats(size_t(5 * width), 77).data(), size_t(5 * width) * 4));
  }
  c.op.live = count.data();
  run.check(run.ops.norm(c.op));
  for (int i : {0, 1}) run.same(i ? "y2" : "y", run.read(c.y[i].data(), size_t(5 * width), DType::float32), want[i]);
}

// fp16 ends at 65,504: activations stop there, since an infinity would turn into NaN.
static void saturates(Run& run) {
  if (!has(run, DType::float16)) return;
  const Array x = run.array({1, -1, 1, -1}, DType::float32), weight = run.array({1e6f, 1e6f, 1, 1}, DType::float32);
  const Array y = run.zeros(4, DType::float16);
  run.check(
      run.ops.norm({x.data(), nullptr, weight.floats(), nullptr, y.data(), nullptr, nullptr, nullptr, nullptr, 1, 4, 0, DType::float32, y.type}));
  run.same("y", run.read(y.data(), 4, DType::float16), {65504, -65504, 1, -1});
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16}) {
    const std::string dtype = std::string("norm/") + nameOf(type) + " ";
    for (int width : {1, 7, 16, 33, 64, 192, 770, 1028, 5120, 8192}) {
      cases.test(dtype + "width " + std::to_string(width), [=](Run& run) { layerNorm(run, {5, width, type, true, false, false, 0}); });
    }
    cases.test(dtype + "no bias", [=](Run& run) { layerNorm(run, {3, 50, type, false, false, false, 0}); });
    cases.test(dtype + "two norms of one read", [=](Run& run) { layerNorm(run, {130, 192, type, true, true, false, 0}); });
    cases.test(dtype + "chosen rows", [=](Run& run) { layerNorm(run, {9, 192, type, true, false, true, 0}); });
    cases.test(dtype + "large common offset", [=](Run& run) { layerNorm(run, {4, 768, type, true, false, false, 5000}); });
  }
  for (int width : {50, 2560}) {
    cases.test("norm/a row of " + std::to_string(width) + " has the same bits alone and beside others", [=](Run& run) { rows(run, width); });
  }
  cases.test("norm/rows from the live count on are neither read nor written", live);
  cases.test("norm/float16 stops at the largest number", saturates);
});

}  // namespace
}  // namespace ewe::test

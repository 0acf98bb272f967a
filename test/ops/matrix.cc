// The matrices of products: what is stored in them, their scales, and single numbers that pass through one.
#include <algorithm>
#include <iterator>

#include "linear.h"

namespace ewe::test {

// One weight of 1: y = act(x), over a sweep of x; on a device without float32 matrices, of the numbers that float16 has of it.
static void activation(Run& run, Activation activation) {
  const DType type = run.ops.multiplies(DType::float32) ? DType::float32 : DType::float16;
  run.check(run.ops.reserve(limitsOf(40001, 1, type)));
  const Weights one = run.weights({1.f}, 1, 1, type, {});
  Floats values;
  for (int i = -20000; i <= 20000; i++) values.push_back(float(i) * 1e-3f);
  for (double huge : {1e-30, -1e-30, 60.0, -60.0, 1e4, -1e4, 1e30, -1e30})
    values[size_t(values.size()) - 1 - size_t(std::fabs(std::log10(std::fabs(huge))))] =
        float(type == DType::float32 ? huge : std::min(6e4, std::max(-6e4, huge)));
  const Array x = run.array(values, type), y = run.zeros(values.size(), DType::float32);
  Linear l = linearOf(x, one, y, int(values.size()));
  l.activation = activation;
  run.check(run.ops.linear(l));
  Doubles want, bound;
  for (float v : x.host) {
    want.push_back(activated(v, activation));
    bound.push_back(activationError(v, activation));
  }
  run.near("act(x)", run.read(y.data(), values.size(), DType::float32), want, bound);
}

// int8 rows whose scales are far apart: each output has its own.
static void scales(Run& run, int rows, int n, int k) {
  if (!run.needs(DType::int8)) return;
  Random random(8);
  const DType type = inputOf(run, DType::int8);
  if (type == DType::bfloat16) run.bfloat16Products();
  run.check(run.ops.reserve(limitsOf(rows, k, type)));
  Floats values(size_t(n) * k);
  for (int i = 0; i < n; i++) {
    const double size = i % 7 == 6 ? 0 : std::pow(10.0, i % 7 * 5 - 15);  // from 1e-15 to 1e10, and rows of zeros
    for (int j = 0; j < k; j++) values[size_t(i) * k + j] = float(size * random.normal());
  }
  const Weights w = run.weights(values, n, k, DType::int8, {});
  const Array x = run.normals(random, size_t(rows) * k, type), y = run.zeros(size_t(rows) * n, DType::float32);
  run.check(run.ops.linear(linearOf(x, w, y, rows)));
  const Bounded want = productOf(x, w, rows);
  run.near("y", run.read(y.data(), want.value.size(), DType::float32), want.value, want.error);
}

// What is stored comes back, rounded to the type, whatever the pieces; special values too.
static void storage(Run& run, DType type, int n, int k) {
  if (!run.needs(type)) return;
  Random random(5);
  Floats values(size_t(n) * k);
  for (float& v : values) v = float(random.normal() * (type == DType::int8 ? 1 : std::pow(10.0, random.below(60) - 45)));
  const float special[] = {0.f,      -0.f,       INFINITY,  -INFINITY, 65504.f,     65520.f,    0x1p-24f,
                           0x1p-25f, 0x1.8p-25f, 0x1p-133f, 3.38e38f,  1.00390625f, 1.01171875f};
  if (type != DType::int8) std::copy_n(special, std::min(values.size(), std::size(special)), values.begin());
  const Weights w = run.weights(values, n, k, type, {});
  Floats got(values.size());
  run.check(run.ops.fetch(w.matrix, 0, n, got.data(), k));
  run.same("all rows", got, w.host);
  if (n > 5) {
    Floats part(size_t(n - 5) * k);
    run.check(run.ops.fetch(w.matrix, 3, n - 5, part.data(), k));
    run.same("some rows", part, Floats(w.host.begin() + 3 * k, w.host.begin() + (n - 2) * k));
  }
  run.expect(!run.ops.store(w.matrix, 0, 0, n + 1, k, got.data(), k).ok(), "a piece with more rows than the matrix was stored");
  run.expect(!run.ops.store(w.matrix, 0, 1, n, k, got.data(), k).ok(), "a piece beyond the last column was stored");
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
    const std::string prefix = std::string("linear/") + nameOf(type) + " ";
    cases.test(prefix + "store and fetch", [=](Run& run) { storage(run, type, 70, 37); });
    cases.test(prefix + "store and fetch, one column", [=](Run& run) { storage(run, type, 19, 1); });
  }
  for (int rows : {1, 5, 20})
    cases.test("linear/int8 scales far apart, " + std::to_string(rows) + " rows", [=](Run& run) { scales(run, rows, 37, 90); });
  for (Activation a : {Activation::none, Activation::gelu, Activation::geluTanh, Activation::quickGelu, Activation::silu, Activation::relu,
                       Activation::geluClipped}) {
    cases.test(std::string("linear/error of ") + nameOf(a), [=](Run& run) { activation(run, a); });
  }
});

}  // namespace ewe::test

#include "cases.h"

namespace ewe::test {
namespace {  // other files of cases have structs of the same names

struct Shape {
  int rows, width;
  DType type;
  bool bias, second, select;
  double offset;
};

static void layerNorm(Run& run, const Shape& s) {
  Random random(2);
  const double eps = 1e-5f;
  const int from = s.select ? s.rows + 3 : s.rows;
  const Array x = run.normals(random, size_t(from) * s.width, DType::float32, 1.5, s.offset);
  Array weight[2] = {run.normals(random, s.width, DType::float32, 0.3, 1), run.normals(random, s.width, DType::float32, 0.3, 1)};
  Array bias[2] = {run.normals(random, s.width, DType::float32), run.normals(random, s.width, DType::float32)};
  const Array y[2] = {run.zeros(size_t(s.rows) * s.width, s.type), run.zeros(size_t(s.rows) * s.width, s.type)};
  Ints chosen(s.rows);
  for (int i = 0; i < s.rows; i++) chosen[i] = s.select ? (i * 7 + 2) % from : i;
  const IntArray select = run.ints(chosen);

  Norm n = {};
  n.x = x.data();
  n.select = s.select ? select.data() : nullptr;
  n.weight = weight[0].floats();
  n.bias = s.bias ? bias[0].floats() : nullptr;
  n.y = y[0].data();
  if (s.second) {
    n.weight2 = weight[1].floats();
    n.bias2 = s.bias ? bias[1].floats() : nullptr;
    n.y2 = y[1].data();
  }
  n.rows = s.rows;
  n.width = s.width;
  n.eps = float(eps);
  n.residualType = DType::float32;
  n.type = s.type;
  run.check(run.ops.norm(n));

  for (int which = 0; which < (s.second ? 2 : 1); which++) {
    Doubles want, bound;
    for (int row = 0; row < s.rows; row++) {
      const float* in = x.host.data() + size_t(chosen[row]) * s.width;
      double mean = 0, variance = 0;
      for (int i = 0; i < s.width; i++) mean += in[i];
      mean /= s.width;
      for (int i = 0; i < s.width; i++) variance += (in[i] - mean) * (in[i] - mean);
      variance /= s.width;
      const double scale = 1 / std::sqrt(variance + eps);
      for (int i = 0; i < s.width; i++) {
        const double w = weight[which].host[i], b = s.bias ? bias[which].host[i] : 0, d = (in[i] - mean) * scale, value = d * w + b;
        want.push_back(value);
        // The two sums run over chains of width / 32 roundings and a tree; about ten more per element.
        const double exact = kUnit * ((s.width / 32 + 16) * std::fabs(w) * (std::fabs(d) + 1) + std::fabs(b) + std::fabs(value));
        bound.push_back(exact + (s.type == DType::float32 ? 0 : unitOf(s.type) * (std::fabs(value) + exact)));
      }
    }
    run.near(which ? "y2" : "y", run.read(y[which].data(), want.size(), s.type), want, bound);
  }
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16}) {
    const std::string dtype = std::string("norm/") + nameOf(type) + " ";
    for (int width : {1, 7, 16, 33, 64, 192, 770, 5120}) {
      cases.test(dtype + "width " + std::to_string(width), [=](Run& run) { layerNorm(run, {5, width, type, true, false, false, 0}); });
    }
    cases.test(dtype + "no bias", [=](Run& run) { layerNorm(run, {3, 50, type, false, false, false, 0}); });
    cases.test(dtype + "two norms of one read", [=](Run& run) { layerNorm(run, {130, 192, type, true, true, false, 0}); });
    cases.test(dtype + "chosen rows", [=](Run& run) { layerNorm(run, {9, 192, type, true, false, true, 0}); });
    cases.test(dtype + "large common offset", [=](Run& run) { layerNorm(run, {4, 768, type, true, false, false, 5000}); });
  }
});

}  // namespace
}  // namespace ewe::test

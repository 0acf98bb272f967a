#include "cases.h"

namespace ewe::test {

static void embedding(Run& run, DType type, int vocab, int width, int rows) {
  Random random(1);
  const Array table = run.normals(random, size_t(vocab) * width, type);
  const Array x = run.zeros(size_t(rows) * width, DType::float32);
  Ints tokens(rows), start = {0, rows};
  for (int& token : tokens) token = random.below(vocab);
  tokens[0] = vocab - 1;
  const IntArray token = run.ints(tokens);
  Embed e = {};
  e.table = table.data();
  e.x = x.data();
  e.rows.token = token.data();
  e.rows.rows = rows;
  e.vocab = vocab;
  e.width = width;
  e.tableType = type;
  e.residualType = DType::float32;
  run.check(run.ops.embed(e));
  Floats want;
  for (int t : tokens) want.insert(want.end(), table.host.begin() + size_t(t) * width, table.host.begin() + size_t(t + 1) * width);
  run.same("x", run.read(x.data(), want.size(), DType::float32), want);
}

static void everyFloat16(Run& run) {
  // All halves but the NaNs, as a table of one column per half.
  std::vector<uint16_t> halves;
  for (int h = 0; h < 0x10000; h++)
    if ((h & 0x7fff) <= 0x7c00) halves.push_back(uint16_t(h));
  Floats want(halves.size());
  widen(halves.data(), DType::float16, int64_t(halves.size()), want.data());
  const Array table = run.array(want, DType::float16), x = run.zeros(halves.size(), DType::float32);
  const IntArray token = run.ints({0});
  Embed e = {};
  e.table = table.data();
  e.x = x.data();
  e.rows.token = token.data();
  e.rows.rows = 1;
  e.vocab = 1;
  e.width = int(halves.size());
  e.tableType = DType::float16;
  e.residualType = DType::float32;
  run.check(run.ops.embed(e));
  run.same("x", run.read(x.data(), want.size(), DType::float32), want);
}

static void outside(Run& run) {
  const Array table = run.zeros(10, DType::float32), x = run.zeros(10, DType::float32);
  for (int bad : {-1, 5}) {
    const IntArray token = run.ints({bad});
    Embed e = {};
    e.table = table.data();
    e.x = x.data();
    e.rows.token = token.data();
    e.rows.rows = 1;
    e.vocab = 5;
    e.width = 2;
    run.expect(!run.ops.embed(e).ok(), "token " + std::to_string(bad) + " of a table of 5 rows was taken");
  }
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16}) {
    for (int width : {1, 16, 37, 192}) {
      cases.test("embed/" + std::string(nameOf(type)) + " width " + std::to_string(width), [=](Run& run) { embedding(run, type, 50, width, 70); });
    }
  }
  cases.test("embed/float16 every value", everyFloat16);
  cases.test("embed/refuses a token outside the table", outside);
});

}  // namespace ewe::test

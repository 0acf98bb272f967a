#include "cases.h"

namespace ewe::test {

// Embeds the tokens; what lies where rows are not written is `before`.
static Floats embed(Run& run, const Array& table, int vocab, int width, const Ints& tokens, float before = 0, const int* live = nullptr) {
  const Array x = run.array(Floats(tokens.size() * size_t(width), before), DType::float32);
  const IntArray token = run.ints(tokens);
  Embed e = {};
  e.table = table.data();
  e.x = x.data();
  e.rows.token = token.data();
  e.rows.rows = int(tokens.size());
  e.rows.live = live;
  e.vocab = vocab;
  e.width = width;
  e.tableType = table.type;
  e.residualType = DType::float32;
  run.check(run.ops.embed(e));
  return run.read(x.data(), x.host.size(), DType::float32);
}

static void embedding(Run& run, DType type, int vocab, int width, int rows) {
  Random random(1);
  const Array table = run.normals(random, size_t(vocab) * width, type);
  Ints tokens(rows);
  for (int& token : tokens) token = random.below(vocab);
  tokens[0] = vocab - 1;
  Floats want;
  for (int t : tokens) want.insert(want.end(), table.host.begin() + size_t(t) * width, table.host.begin() + size_t(t + 1) * width);
  run.same("x", embed(run, table, vocab, width, tokens), want);
}

// Counts of live rows are for recordings: a device without them never gets one.
static bool counted(Run& run) {
  if (run.ops.records()) return true;
  run.expect(!run.ops.record(1).ok(), "a device that says it records nothing does");
  run.refused = true;
  return false;
}

// All numbers of a 16-bit type but the NaNs, as a table of one column each; `width` columns, the last ones 0.
static void everyNumber(Run& run, DType type, size_t width) {
  std::vector<uint16_t> halves;
  const int infinity = type == DType::float16 ? 0x7c00 : 0x7f80;
  for (int h = 0; h < 0x10000; h++)
    if ((h & 0x7fff) <= infinity) halves.push_back(uint16_t(h));
  run.expect(halves.size() <= width, "the table is too narrow");
  halves.resize(width);
  Floats want(width);
  widen(halves.data(), type, int64_t(width), want.data());
  run.same("x", embed(run, run.array(want, type), 1, int(width), {0}), want);
}

static void live(Run& run) {
  if (!counted(run)) return;
  Random random(2);
  const int width = 40;
  const Array table = run.normals(random, 4 * width, DType::bfloat16);
  const IntArray count = run.ints({2});
  const Floats got = embed(run, table, 4, width, {3, 1, 99999, -7}, 12, count.data());
  for (int i = 0; i < 4 * width; i++) {
    const float want = i < width ? table.host[size_t(3 * width + i)] : i < 2 * width ? table.host[size_t(i)] : 12;
    run.expect(got[size_t(i)] == want, "number " + std::to_string(i) + " is " + std::to_string(got[size_t(i)]));
  }
}

static void outside(Run& run) {
  const Array table = run.zeros(10, DType::float32), x = run.zeros(10, DType::float32);
  for (int bad : {-1, 5}) {
    const IntArray token = run.ints({bad, 4});
    Embed e = {};
    e.table = table.data();
    e.x = x.data();
    e.rows.token = token.data();
    e.rows.rows = 2;
    e.vocab = 5;
    e.width = 2;
    e.tableType = e.residualType = DType::float32;
    // A device that sees no token before the launch marks its row, and the mark comes through to the log-probabilities.
    if (!run.ops.embed(e).ok()) {
      run.expect(true, "");
      continue;
    }
    const Floats got = run.read(x.data(), 4, DType::float32);
    run.expect(std::isnan(got[0]) && std::isnan(got[1]), "token " + std::to_string(bad) + " of a table of 5 rows was taken");
    run.expect(got[2] == 0 && got[3] == 0, "the row beside that of token " + std::to_string(bad) + " is not its own");
  }
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16}) {
    for (int width : {1, 16, 37, 192, 2568}) {
      cases.test("embed/" + std::string(nameOf(type)) + " width " + std::to_string(width), [=](Run& run) { embedding(run, type, 50, width, 70); });
    }
  }
  for (DType type : {DType::bfloat16, DType::float16}) {
    for (size_t width : {65282, 65288}) {  // number by number, and eight at a time
      cases.test("embed/" + std::string(nameOf(type)) + " every number, width " + std::to_string(width),
                 [=](Run& run) { everyNumber(run, type, width); });
    }
  }
  cases.test("embed/rows from the live count on are neither read nor written", live);
  cases.test("embed/a token outside the table is refused, or gives a row of NaN", outside);
});

}  // namespace ewe::test

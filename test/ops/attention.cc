#include "attention.h"

#include "kernels/attention_decode.plan.h"

namespace ewe::test {

void attentionReference(const AttentionShape& s, int first, int rows, const Bounded& q, const Bounded& keys, const Bounded& values, Bounded& out) {
  const int d = s.headSize, width = s.heads * d, kvWidth = s.kvHeads * d;
  const double scale = float(1 / std::sqrt(double(d)));
  for (int row = 0; row < rows; row++) {
    for (int head = 0; head < s.heads; head++) {
      const int count = first + row + 1, kvHead = head / (s.heads / s.kvHeads);
      Doubles score(count);
      double largest = -INFINITY, miss = 0;  // miss: the largest error of a scaled score
      for (int p = 0; p < count; p++) {
        double sum = 0, magnitude = 0, carried = 0;
        for (int i = 0; i < d; i++) {
          const size_t a = size_t(row) * width + size_t(head) * d + i, b = size_t(p) * kvWidth + size_t(kvHead) * d + i;
          sum += q.value[a] * keys.value[b];
          magnitude += std::fabs(q.value[a] * keys.value[b]);
          carried += q.error[a] * std::fabs(keys.value[b]) + (std::fabs(q.value[a]) + q.error[a]) * keys.error[b];
        }
        score[p] = sum * scale;
        largest = std::max(largest, score[p]);
        miss = std::max(miss, scale * (carried + (d + 2) * kUnit * magnitude));
      }
      double total = 0, spread = 0;
      for (int p = 0; p < count; p++) spread = std::max(spread, largest - score[p]);
      for (int p = 0; p < count; p++) total += score[p] = std::exp(score[p] - largest);
      // Relative error of a weight: of its score against the largest, of the difference and its product with the scale (both grow with the spread),
      // of the exponential, of the rescaling of each split or tile of keys (32 at least); then of the weight's own rounding and of the sums. A
      // float16 weight below 2^-14 is rounded to a multiple of 2^-24.
      const int tile = s.type == DType::float32 ? 256 : 32;
      const double weight = 2 * (2 * miss + (2 * spread + 8 + 8 * (count / tile + 1)) * kUnit) + (s.type == DType::float32 ? 0 : 2 * unitOf(s.type));
      const double least = s.type == DType::float16 ? 0x1p-25 / total : 0;
      for (int i = 0; i < d; i++) {
        double sum = 0, magnitude = 0, carried = 0, all = 0;
        for (int p = 0; p < count; p++) {
          const size_t b = size_t(p) * kvWidth + size_t(kvHead) * d + i;
          sum += score[p] / total * values.value[b];
          magnitude += score[p] / total * std::fabs(values.value[b]);
          carried += score[p] / total * values.error[b];
          all += std::fabs(values.value[b]);
        }
        double error = (weight + (2 * count + 4) * kUnit) * magnitude + carried * (1 + weight) + least * all;
        if (s.type != DType::float32) error += unitOf(s.type) * (std::fabs(sum) + error);
        out.push(sum, error);
      }
    }
  }
}

namespace {

using namespace feeding;

// Whether the device can do this; the type is then that of its activations. What it can't do it must refuse, and say which heads it takes.
static bool begin(Run& run, Shape& shape) {
  if (!run.needs(shape.weights)) return false;
  shape.s.type = run.ops.activationType(shape.weights);
  if (shape.s.type == DType::bfloat16) run.bfloat16Products();
  for (int size : {16, 32, 64, 80, 96, 128, 256}) {
    if (size == shape.s.headSize) return true;
  }
  reserve(run, shape, 1, shape.s.heads * shape.s.headSize);
  const size_t block = run.ops.blockBytes(16, shape.s.headSize, shape.s.type), width = size_t(shape.s.heads) * shape.s.headSize;
  const Buffer page(run, 2 * block * shape.s.kvHeads);
  const Array q = run.zeros(width, shape.s.type), y = run.zeros(width, shape.s.type);
  for (int prompts : {0, 1}) {
    const Step step = run.step({{0, 1, {0}}}, prompts);
    const Cache cache = {page.data(), shape.s.type, 16, shape.s.kvHeads, shape.s.headSize, (long long)block};
    const Status status = run.ops.attend(attendOp(shape, q, cache, y, step.rows, (long long)width));
    if (status.ok()) return true;
    run.expect(status.failure().kind == Kind::device && std::string(status.failure().message).find("64, 80, 96, 128") != std::string::npos,
               std::string("refused with: ") + status.failure().message);
  }
  run.refused = run.failures.empty();
  return false;
}

static Bounded reference(const Shape& shape) {
  Bounded out;
  for (int sequence = 0; sequence < int(shape.lengths.size()); sequence++) {
    Bounded q, keys, values;
    const int width = shape.s.heads * shape.s.headSize, kvWidth = shape.s.kvHeads * shape.s.headSize;
    for (int position = 0; position < shape.lengths[sequence]; position++) {
      const Floats row = projected(shape, sequence, position);
      for (int i = 0; i < int(row.size()); i++) (i < width ? q : i < width + kvWidth ? keys : values).push(row[i], 0);
    }
    attentionReference(shape.s, 0, shape.lengths[sequence], q, keys, values, out);
  }
  return out;
}

// Each class, and both in one step.
static void attention(Run& run, Shape shape) {
  if (!begin(run, shape)) return;
  const Bounded want = reference(shape);
  const int sequences = int(shape.lengths.size());
  for (int prompts : {0, (sequences + 1) / 2, sequences}) {
    shape.prompts = prompts;
    run.near("y with " + std::to_string(prompts) + " prompts", Fed(run, shape, 1).feedAll(wholePrompts(shape)), want.value, want.error);
  }
}

// The last 20 rows alone, over keys and values that are there: several splits, and little enough work for a sanitizer.
static void lastRows(Run& run, Shape shape) {
  if (!begin(run, shape)) return;
  const Bounded want = reference(shape);
  const int length = shape.lengths[0];
  Fed fed(run, shape, 1);
  const std::vector<Chunk> whole = {{0, 0, length}}, last = {{0, length - 20, 20}};
  fed.project(whole, fed.stepOf(whole));
  std::vector<std::vector<Floats>> out(1);
  fed.feed(last, out);
  Floats got;
  for (auto row = out[0].end() - 20; row != out[0].end(); row++) got.insert(got.end(), row->begin(), row->end());
  run.near("y", got, {want.value.end() - long(got.size()), want.value.end()}, {want.error.end() - long(got.size()), want.error.end()});
}

// A row of one class has the same bits whatever the chunks, the company and its class, the size and the order of pages.
static void sameBits(Run& run, Shape shape) {
  if (!begin(run, shape)) return;
  const int sequences = int(shape.lengths.size()), half = (sequences + 1) / 2;
  Floats ofClass[2];
  for (int prompt : {0, 1}) {
    shape.prompts = prompt ? sequences : 0;
    const std::string rows = prompt ? "prompts, " : "generated, ";
    const Floats& whole = ofClass[prompt] = Fed(run, shape, 1).feedAll(wholePrompts(shape));
    run.near(rows + "y", whole, Doubles(whole.begin(), whole.end()), Doubles(whole.size(), 0));
    run.same(rows + "pages in another order", Fed(run, shape, 2).feedAll(wholePrompts(shape)), whole);
    for (int size : {1, 5, 40}) run.same(rows + "chunks of " + std::to_string(size), Fed(run, shape, 3).feedAll(chunks(shape, size)), whole);
    run.same(rows + "one sequence after the other", Fed(run, shape, 4).feedAll(uneven(shape)), whole);
    for (int pageSize : {16, 48, 512}) {
      Shape other = shape;
      other.pageSize = pageSize;
      run.same(rows + "pages of " + std::to_string(pageSize), Fed(run, other, 5).feedAll(chunks(other, 31)), whole);
    }
  }
  shape.prompts = half;
  size_t split = 0;
  for (int i = 0; i < half; i++) split += size_t(shape.lengths[i]) * shape.s.heads * shape.s.headSize;
  Floats both(ofClass[1].begin(), ofClass[1].begin() + split);
  both.insert(both.end(), ofClass[0].begin() + split, ofClass[0].end());
  run.same("both classes in a step", Fed(run, shape, 6).feedAll(chunks(shape, 40)), both);
}

// A recorded step serves any number of rows up to its own, at any positions up to its own: the rows beyond are neither read nor written.
static void recorded(Run& run, Shape shape) {
  if (!run.needsRecordings() || !begin(run, shape)) return;
  const int rows = int(shape.lengths.size()), width = shape.s.heads * shape.s.headSize;
  Fed fed(run, shape, 1);
  const Floats all = fed.feedAll(wholePrompts(shape));  // the last row of each sequence is looked at
  std::vector<Chunk> last;
  Floats lastRows;
  size_t end = 0;
  for (int i = 0; i < rows; i++) {
    end += size_t(shape.lengths[i]) * width;
    lastRows.insert(lastRows.end(), all.begin() + end - width, all.begin() + end);
    last.push_back({i, shape.lengths[i] - 1, 1});
  }
  const Step step = fed.stepOf(last);
  const Array q = fed.project(last, step), y = run.zeros(size_t(rows) * width, shape.s.type);
  const IntArray live = run.ints({rows});
  Rows counted = step.rows;
  counted.live = live.data();
  const Attend a = attendOp(shape, q, fed.cache, y, counted, width);
  run.check(run.ops.record(7));
  run.check(run.ops.attend(a));
  run.check(run.ops.endRecord());
  run.same("recorded", run.read(y.data(), lastRows.size(), shape.s.type), lastRows);
  for (int count = rows - 1; count >= 0; count -= 2) {
    Ints position = step.position.host, sequence = step.sequence.host;
    for (int i = count; i < rows; i++) position[i] = sequence[i] = 1 << 28;
    const Floats before(lastRows.size(), -7);
    std::vector<uint16_t> narrowed(before.size());
    narrow(before.data(), int64_t(before.size()), shape.s.type, narrowed.data());
    run.check(run.ops.upload(y.data(), narrowed.data(), narrowed.size() * 2));
    run.check(run.ops.upload(step.position.device.data(), position.data(), position.size() * 4));
    run.check(run.ops.upload(step.sequence.device.data(), sequence.data(), sequence.size() * 4));
    run.check(run.ops.upload(live.device.data(), &count, 4));
    run.check(run.ops.replay(7));
    Floats some = before;
    std::copy(lastRows.begin(), lastRows.begin() + size_t(count) * width, some.begin());
    run.same("replayed for " + std::to_string(count) + " rows", run.read(y.data(), some.size(), shape.s.type), some);
  }
}

// A sequence goes on in a copy of its last page as it would have in the page itself, and other pages and layers stay as they were.
static void copiedPage(Run& run, DType type) {
  Shape shape = {{2, 2, 16, type}, 16, {40}};
  if (!begin(run, shape)) return;
  for (int prompts : {0, 1}) {
    shape.prompts = prompts;
    const Floats whole = Fed(run, shape, 1).feedAll(wholePrompts(shape));
    Fed fed(run, shape, 1);
    std::vector<std::vector<Floats>> out(1);
    fed.feed({{0, 0, 37}}, out);
    const int spare = Fed::pageCount(shape);
    run.check(run.ops.copyPage(fed.cache, 1, 0, fed.pages[0][2], spare));
    const int pageBytes = int(2 * shape.s.kvHeads * fed.cache.blockBytes);
    const std::vector<unsigned char> poison(pageBytes, 0xff);
    run.check(run.ops.upload(static_cast<char*>(fed.arena.data()) + (long long)fed.pages[0][2] * pageBytes, poison.data(), poison.size()));
    fed.pages[0][2] = spare;
    fed.feed({{0, 37, 3}}, out);
    Floats flat;
    for (const auto& row : out[0]) flat.insert(flat.end(), row.begin(), row.end());
    run.same(prompts ? "of a prompt" : "generated", flat, whole);
  }
}

static void copiedLayers(Run& run) {
  const Cache cache = {nullptr, DType::float32, 16, 1, 4, (long long)run.ops.blockBytes(16, 4, DType::float32)};
  const size_t page = size_t(2) * cache.blockBytes, layer = page * 3;
  Floats values(layer * 2 / 4);
  for (size_t i = 0; i < values.size(); i++) values[i] = float(i);
  const Array arena = run.array(values, DType::float32);
  Cache c = cache;
  c.data = arena.data();
  run.check(run.ops.copyPage(c, 2, (long long)layer, 2, 0));
  for (size_t l = 0; l < 2; l++)
    for (size_t i = 0; i < page / 4; i++) values[l * layer / 4 + i] = values[l * layer / 4 + 2 * page / 4 + i];
  run.same("arena", run.read(arena.data(), values.size(), DType::float32), values);
}

// ---- what a card launches

static Attend planned(int promptRows, int promptSequences, int rows) {
  static int there;
  Attend a = {};
  a.cache = {nullptr, DType::float16, 16, 2, 80, 16 * 80 * 2};
  a.step.rows = rows;
  a.step.promptRows = promptRows;
  a.step.promptSequences = promptSequences;
  a.scratch = a.counters = &there;
  a.heads = 4;
  a.yStride = 320;
  a.maxPositions = 2048;
  a.type = DType::float16;
  return a;
}
constexpr kernels::CardLimits kTuring = {750, 40, 65536, 65536, 65536, 1024, 16};

static void enoughBlocks(Run& run) {
  Random random(1);
  for (int i = 0; i < 2000; i++) {
    const int sequences = 1 + random.below(i % 2 ? 4 : 50), tileRows = kernels::attendTile(750, 80).rows();
    int rows = 0, tiles = 0;
    for (int s = 0; s < sequences; s++) {
      const int count = random.below(3) ? 1 + random.below(300) : 1;
      rows += count;
      tiles += (count + tileRows - 1) / tileRows;
    }
    // And no more than there can be: the most when all sequences but one have a single row.
    const unsigned blocks = kernels::planAttend(planned(rows, sequences, rows), kTuring).gridY;
    const unsigned most = unsigned((rows - sequences) / tileRows + sequences);
    run.expect(blocks >= unsigned(tiles) && blocks == most, std::to_string(blocks) + " blocks for " + std::to_string(tiles) + " tiles of rows");
  }
}

static void refusals(Run& run) {
  const Attend prompt = planned(5, 2, 5), generated = planned(0, 0, 5);
  run.expect(kernels::planAttend(prompt, kTuring).name[0] != 0, "a prompt is planned");
  run.expect(kernels::planAttendDecode(generated, kTuring).name[0] != 0, "generated rows are planned");
  auto refused = [&](const char* what, bool promptToo, const std::function<void(Attend&)>& change) {
    for (bool isPrompt : {false, true}) {
      Attend a = isPrompt ? prompt : generated;
      change(a);
      const kernels::Launch l = isPrompt ? kernels::planAttend(a, kTuring) : kernels::planAttendDecode(a, kTuring);
      const bool wanted = !isPrompt || promptToo;
      run.expect(wanted == (l.name[0] == 0 && l.refusal != nullptr), std::string(what) + (isPrompt ? " in a prompt" : " of generated rows"));
    }
  };
  refused("heads of 48", true, [](Attend& a) { a.cache.headSize = 48; });
  refused("bfloat16 without its instructions", true, [](Attend& a) { a.type = a.cache.type = DType::bfloat16; });
  refused("float32", true, [](Attend& a) { a.type = a.cache.type = DType::float32; });
  refused("a cache of another type", true, [](Attend& a) { a.cache.type = DType::int8; });
  refused("key-value heads that do not divide the heads", true, [](Attend& a) { a.cache.kvHeads = 3; });
  refused("pages of 24", true, [](Attend& a) { a.cache.pageSize = 24; });
  refused("blocks shorter than a page", true, [](Attend& a) { a.cache.blockBytes -= 16; });
  refused("no positions", true, [](Attend& a) { a.maxPositions = 0; });
  refused("no rows", true, [](Attend& a) { a.step.rows = a.step.promptRows = 0; });
  refused("several splits without scratch memory", false, [](Attend& a) { a.scratch = nullptr; });
  refused("several splits without counters", false, [](Attend& a) { a.counters = nullptr; });
  refused("more rows than the scratch memory of a launch", false, [](Attend& a) { a.step.rows = a.step.promptRows + kernels::kAttendRows + 1; });
  Attend odd = prompt, counted = prompt;
  odd.yStride++;
  run.expect(kernels::planAttend(odd, kTuring).name[0] == 0, "pairs at an odd stride");
  counted.step.live = static_cast<const int*>(counted.counters);
  run.expect(kernels::planAttend(counted, kTuring).name[0] == 0, "a prompt of a recorded step");
}

static void bench(Run& run, DType type, int heads, int headSize, int sequences, int context, bool prompt) {
  Shape shape = {{heads, heads, headSize, type}, 64, Ints(sequences, context)};
  if (!begin(run, shape)) return;
  shape.prompts = sequences;
  Fed fed(run, shape, 1);
  std::vector<std::vector<Floats>> out(sequences);
  for (const auto& step : wholePrompts(shape)) fed.feed(step, out);
  std::vector<SequenceRows> rows;
  for (int i = 0; i < sequences; i++) rows.push_back({prompt ? 0 : context - 1, prompt ? context : 1, fed.pages[i]});
  const Step step = run.step(rows, prompt ? sequences : 0);
  Random random(1);
  const size_t count = size_t(step.rows.rows) * heads * headSize;
  const Array q = run.normals(random, count, shape.s.type), y = run.zeros(count, shape.s.type);
  const Attend a = attendOp(shape, q, fed.cache, y, step.rows, heads * headSize);
  double contexts = 0;
  for (int position : step.position.host) contexts += position + 1;
  run.measure(cost(a, contexts, double(sequences) * context), 1, [&](int) { return run.ops.attend(a); });
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16, DType::float16}) {
    const std::string prefix = std::string("attention/") + nameOf(type) + " ";
    for (int headSize : {1, 4, 7, 8, 16, 20, 32, 33, 64, 80, 96, 128, 256}) {
      const Shape shape = {{2, 2, headSize, type}, 64, {70, 1, 16, 2}};
      cases.test(prefix + "head " + std::to_string(headSize), [=](Run& run) { attention(run, shape); });
    }
    cases.test(prefix + "shared key-value heads", [=](Run& run) { attention(run, {{6, 2, 16, type}, 16, {33, 7}}); });
    cases.test(prefix + "many shared key-value heads", [=](Run& run) { attention(run, {{16, 2, 32, type}, 48, {20, 70}}); });
    cases.test(prefix + "many sequences", [=](Run& run) {
      Ints lengths;
      for (int i = 0; i < 70; i++) lengths.push_back(i == 40 ? 150 : 1 + i % 3);
      attention(run, {{1, 1, 16, type}, 16, lengths});
    });
    cases.test(prefix + "several splits", [=](Run& run) { attention(run, {{2, 2, 16, type}, 64, {600, 256, 257}}); });
    cases.test(prefix + "two splits, the last rows", [=](Run& run) { lastRows(run, {{1, 1, 16, type}, 16, {300}}); });
    cases.test(prefix + "same bits", [=](Run& run) { sameBits(run, {{2, 2, 16, type}, 64, {270, 37, 1, 18}}); });
    cases.test(prefix + "same bits, shared key-value heads", [=](Run& run) { sameBits(run, {{2, 1, 80, type}, 64, {70, 33}}); });
    cases.test(prefix + "same bits, shared key-value heads of odd size", [=](Run& run) { sameBits(run, {{6, 2, 7, type}, 64, {270, 21}}); });
    cases.test(prefix + "recorded", [=](Run& run) { recorded(run, {{2, 1, 64, type}, 32, {30, 300, 1, 257, 513}}); });
    cases.test(prefix + "goes on in a copied page", [=](Run& run) { copiedPage(run, type); });
  }
  cases.test("attention/copies a page of every layer", copiedLayers);
  cases.test("attention/every tile of rows has a block", enoughBlocks);
  cases.test("attention/plans refuse what the kernels cannot do", refusals);

  for (DType type : {DType::float32, DType::bfloat16}) {
    const std::string prefix = std::string("attention/") + nameOf(type) + " ";
    for (int headSize : {32, 64, 80, 128}) {
      const std::string head = "12 heads of " + std::to_string(headSize);
      cases.bench(prefix + "prompt of 512, " + head, [=](Run& run) { bench(run, type, 12, headSize, 1, 512, true); });
      cases.bench(prefix + "8 rows at 512, " + head, [=](Run& run) { bench(run, type, 12, headSize, 8, 512, false); });
      cases.bench(prefix + "1 row at 2048, " + head, [=](Run& run) { bench(run, type, 12, headSize, 1, 2048, false); });
      cases.bench(prefix + "32 rows at 1024, " + head, [=](Run& run) { bench(run, type, 12, headSize, 32, 1024, false); });
    }
  }
});

}  // namespace
}  // namespace ewe::test

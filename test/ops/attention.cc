#include <algorithm>

#include "cases.h"

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
      // of the exponential, of the rescaling of each split; then of the weight's own rounding and of the sums.
      const double weight = 2 * (2 * miss + (2 * spread + 8 + 8 * (count / 256 + 1)) * kUnit) + (s.type == DType::float32 ? 0 : 2 * unitOf(s.type));
      for (int i = 0; i < d; i++) {
        double sum = 0, magnitude = 0, carried = 0;
        for (int p = 0; p < count; p++) {
          const size_t b = size_t(p) * kvWidth + size_t(kvHead) * d + i;
          sum += score[p] / total * values.value[b];
          magnitude += score[p] / total * std::fabs(values.value[b]);
          carried += score[p] / total * values.error[b];
        }
        double error = (weight + (2 * count + 4) * kUnit) * magnitude + carried * (1 + weight);
        if (s.type != DType::float32) error += unitOf(s.type) * (std::fabs(sum) + error);
        out.push(sum, error);
      }
    }
  }
}

namespace {  // other files of cases have structs of the same names

// ---- a cache filled through the Qkv epilogue of an identity matrix, which writes what it is given

struct Shape {
  AttentionShape s;
  int pageSize;
  Ints lengths;  // of the sequences
};

// How the sequences are fed: steps of (sequence, first position, count).
struct Chunk {
  int sequence, first, count;
};
using Plan = std::vector<std::vector<Chunk>>;

static Plan wholePrompts(const Shape& shape) {
  Plan plan(1);
  for (int i = 0; i < int(shape.lengths.size()); i++) plan[0].push_back({i, 0, shape.lengths[i]});
  return plan;
}

// `size` positions of every sequence that has some left.
static Plan chunks(const Shape& shape, int size) {
  Plan plan;
  for (int first = 0;; first += size) {
    std::vector<Chunk> step;
    for (int i = 0; i < int(shape.lengths.size()); i++)
      if (first < shape.lengths[i]) step.push_back({i, first, std::min(size, shape.lengths[i] - first)});
    if (step.empty()) return plan;
    plan.push_back(step);
  }
}

// One sequence after the other, in pieces of a size that grows.
static Plan uneven(const Shape& shape) {
  Plan plan;
  for (int i = 0; i < int(shape.lengths.size()); i++)
    for (int first = 0, size = 1; first < shape.lengths[i]; first += size, size = size * 3 + 1)
      plan.push_back({{i, first, std::min(size, shape.lengths[i] - first)}});
  return plan;
}

// [q | k | v] of one position, the same for every plan.
static Floats projected(const Shape& shape, int sequence, int position) {
  Random random(uint64_t(sequence) * 100003 + position);
  Floats row(size_t(shape.s.heads + 2 * shape.s.kvHeads) * shape.s.headSize);
  for (float& x : row) x = float(rounded(random.normal() * 1.2, shape.s.type));
  return row;
}

struct Fed {
  Run& run;
  const Shape& shape;
  Buffer arena;
  Cache cache;
  Weights identity;
  std::vector<Ints> pages;

  static Weights identityOf(Run& run, const Shape& shape) {
    const int n = (shape.s.heads + 2 * shape.s.kvHeads) * shape.s.headSize;
    Floats one(size_t(n) * n);
    for (int i = 0; i < n; i++) one[size_t(i) * n + i] = 1;
    return run.weights(one, n, n, shape.s.type, {});
  }
  static size_t blockBytes(Run& run, const Shape& shape) { return run.ops.blockBytes(shape.pageSize, shape.s.headSize, shape.s.type); }
  static int pageCount(const Shape& shape) {
    int count = 0;
    for (int length : shape.lengths) count += (length + shape.pageSize - 1) / shape.pageSize;
    return count;
  }

  // The arena begins as NaN everywhere, and the pages of the sequences lie in it in a shuffled order.
  Fed(Run& r, const Shape& s, uint64_t seed)
      : run(r), shape(s), arena(r, (pageCount(s) + 1) * size_t(2) * s.s.kvHeads * blockBytes(r, s)), identity(identityOf(r, s)) {
    const std::vector<unsigned char> poison(arena.bytes(), 0xff);
    run.check(run.ops.upload(arena.data(), poison.data(), poison.size()));
    cache = {arena.data(), s.s.type, s.pageSize, s.s.kvHeads, s.s.headSize, (long long)blockBytes(r, s)};
    Ints order(pageCount(s));
    for (size_t i = 0; i < order.size(); i++) order[i] = int(i);
    Random random(seed);
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[random.below(int(i))]);
    size_t next = 0;
    for (int length : s.lengths) {
      pages.push_back({});
      for (int p = 0; p < length; p += s.pageSize) pages.back().push_back(order[next++]);
    }
    int rows = 0;
    for (int length : s.lengths) rows += length;
    Limits limits = {};
    limits.rows = rows;
    limits.width = limits.qkv = identity.matrix.n;
    limits.heads = s.s.heads;
    limits.headSize = s.s.headSize;
    limits.type = s.s.type;
    run.check(run.ops.reserve(limits));
  }

  // Feeds a step and attends; results go to out[sequence][position].
  void feed(const std::vector<Chunk>& chunks, std::vector<std::vector<Floats>>& out) {
    std::vector<SequenceRows> sequences;
    Floats x;
    for (const auto& c : chunks) {
      sequences.push_back({c.first, c.count, pages[c.sequence]});
      for (int i = 0; i < c.count; i++) {
        const Floats row = projected(shape, c.sequence, c.first + i);
        x.insert(x.end(), row.begin(), row.end());
      }
    }
    const Step step = run.step(sequences, 0);
    const DType type = shape.s.type;
    const int n = identity.matrix.n, width = shape.s.heads * shape.s.headSize, stride = width + 3;
    const Array input = run.array(x, type), q = run.zeros(size_t(step.rows.rows) * width, type);
    const Array y = run.zeros(size_t(step.rows.rows) * stride, type), table = run.zeros(1, DType::float32);
    Linear l = {};
    l.x = input.data();
    l.matrix = identity.matrix;
    l.qkv = {q.data(), cache, {table.floats(), table.floats(), 0}, shape.s.heads, 0};
    l.step = step.rows;
    l.rows = step.rows.rows;
    l.xStride = n;
    l.type = type;
    run.check(run.ops.linear(l));
    const Attend a = {q.data(), cache, y.data(), step.rows, nullptr, nullptr, shape.s.heads, stride, float(1 / std::sqrt(double(shape.s.headSize))), 1 << 20, type};
    run.check(run.ops.attend(a));
    const Floats got = run.read(y.data(), size_t(step.rows.rows) * stride, type);
    size_t row = 0;
    for (const auto& c : chunks) {
      if (int(out[c.sequence].size()) < c.first + c.count) out[c.sequence].resize(c.first + c.count);
      for (int i = 0; i < c.count; i++, row++) out[c.sequence][c.first + i] = Floats(got.begin() + row * stride, got.begin() + row * stride + width);
    }
  }

  Floats feedAll(const Plan& plan) {
    std::vector<std::vector<Floats>> out(shape.lengths.size());
    for (const auto& step : plan) feed(step, out);
    Floats flat;
    for (const auto& sequence : out)
      for (const auto& row : sequence) flat.insert(flat.end(), row.begin(), row.end());
    return flat;
  }
};

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

static void attention(Run& run, const Shape& shape) {
  if (shape.s.type == DType::bfloat16) run.bfloat16Products();
  Fed fed(run, shape, 1);
  const Bounded want = reference(shape);
  run.near("y", fed.feedAll(wholePrompts(shape)), want.value, want.error);
}

// Whatever the chunks, the company, the size and the order of pages.
static void sameBits(Run& run, const Shape& shape) {
  if (shape.s.type == DType::bfloat16) run.bfloat16Products();
  const Floats whole = Fed(run, shape, 1).feedAll(wholePrompts(shape));
  run.near("y", whole, Doubles(whole.begin(), whole.end()), Doubles(whole.size(), 0));
  run.same("pages in another order", Fed(run, shape, 2).feedAll(wholePrompts(shape)), whole);
  for (int size : {1, 2, 5, 40}) run.same("chunks of " + std::to_string(size), Fed(run, shape, 3).feedAll(chunks(shape, size)), whole);
  run.same("one sequence after the other", Fed(run, shape, 4).feedAll(uneven(shape)), whole);
  for (int pageSize : {16, 48, 512}) {
    Shape other = shape;
    other.pageSize = pageSize;
    run.same("pages of " + std::to_string(pageSize), Fed(run, other, 5).feedAll(chunks(other, 31)), whole);
  }
}

// A sequence goes on in a copy of its last page as it would have in the page itself, and other pages and layers stay as they were.
static void copiedPage(Run& run, DType type) {
  const Shape shape = {{2, 2, 20, type}, 16, {40}};
  if (type == DType::bfloat16) run.bfloat16Products();
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
  run.same("y", flat, whole);
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

static void bench(Run& run, DType type, int heads, int headSize, int sequences, int context, bool prompt) {
  const Shape shape = {{heads, heads, headSize, type}, 64, Ints(sequences, context)};
  Fed fed(run, shape, 1);
  std::vector<std::vector<Floats>> out(sequences);
  for (const auto& step : wholePrompts(shape)) fed.feed(step, out);
  std::vector<SequenceRows> rows;
  for (int i = 0; i < sequences; i++) rows.push_back({prompt ? 0 : context - 1, prompt ? context : 1, fed.pages[i]});
  const Step step = run.step(rows, prompt ? sequences : 0);
  Random random(1);
  const size_t count = size_t(step.rows.rows) * heads * headSize;
  const Array q = run.normals(random, count, type), y = run.zeros(count, type);
  const Attend a = {q.data(), fed.cache, y.data(), step.rows, nullptr, nullptr, heads, heads * headSize, float(1 / std::sqrt(double(headSize))), 1 << 20, type};
  double contexts = 0;
  for (int position : step.position.host) contexts += position + 1;
  run.measure(cost(a, contexts, double(sequences) * context), 1, [&](int) { return run.ops.attend(a); });
}

static Suite suite([](Cases& cases) {
  for (DType type : {DType::float32, DType::bfloat16}) {
    const std::string prefix = std::string("attention/") + nameOf(type) + " ";
    for (int headSize : {1, 4, 7, 8, 16, 20, 32, 33, 64, 80, 96, 128, 256}) {
      const Shape shape = {{2, 2, headSize, type}, 64, {70, 1, 16, 2}};
      cases.test(prefix + "head " + std::to_string(headSize), [=](Run& run) { attention(run, shape); });
    }
    cases.test(prefix + "shared key-value heads", [=](Run& run) { attention(run, {{6, 2, 20, type}, 16, {33, 7}}); });
    cases.test(prefix + "several splits", [=](Run& run) { attention(run, {{2, 2, 16, type}, 64, {600, 256, 257}}); });
    cases.test(prefix + "same bits", [=](Run& run) { sameBits(run, {{2, 2, 20, type}, 64, {300, 37, 1, 18}}); });
    cases.test(prefix + "same bits, shared key-value heads of odd size", [=](Run& run) { sameBits(run, {{6, 2, 7, type}, 64, {270, 21}}); });
    cases.test(prefix + "goes on in a copied page", [=](Run& run) { copiedPage(run, type); });
  }
  cases.test("attention/copies a page of every layer", copiedLayers);

  for (DType type : {DType::float32, DType::bfloat16}) {
    const std::string prefix = std::string("attention/") + nameOf(type) + " ";
    for (int headSize : {64, 80, 128}) {
      const std::string head = "12 heads of " + std::to_string(headSize);
      cases.bench(prefix + "prompt of 512, " + head, [=](Run& run) { bench(run, type, 12, headSize, 1, 512, true); });
      cases.bench(prefix + "8 rows at 512, " + head, [=](Run& run) { bench(run, type, 12, headSize, 8, 512, false); });
      cases.bench(prefix + "1 row at 2048, " + head, [=](Run& run) { bench(run, type, 12, headSize, 1, 2048, false); });
    }
  }
});

}  // namespace
}  // namespace ewe::test

// Sequences for the cases of attention: their queries, keys and values follow from sequence and position alone, so that every way to feed them must
// come to the same. The cache is filled through the Qkv epilogue of an identity matrix, which writes what it is given.
#pragma once
#include <algorithm>

#include "cases.h"

namespace ewe::test::feeding {

struct Shape {
  AttentionShape s;
  int pageSize;
  Ints lengths;     // of the sequences
  int prompts = 0;  // how many of them, from the first on, are of the prompt class
  DType weights = s.type;
};

// How the sequences are fed: steps of (sequence, first position, count).
struct Chunk {
  int sequence, first, count;
};
using Plan = std::vector<std::vector<Chunk>>;

inline Plan wholePrompts(const Shape& shape) {
  Plan plan(1);
  for (int i = 0; i < int(shape.lengths.size()); i++) plan[0].push_back({i, 0, shape.lengths[i]});
  return plan;
}

// `size` positions of every sequence that has some left.
inline Plan chunks(const Shape& shape, int size) {
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
inline Plan uneven(const Shape& shape) {
  Plan plan;
  for (int i = 0; i < int(shape.lengths.size()); i++)
    for (int first = 0, size = 1; first < shape.lengths[i]; first += size, size = size * 3 + 1)
      plan.push_back({{i, first, std::min(size, shape.lengths[i] - first)}});
  return plan;
}

// [q | k | v] of one position, the same for every plan.
inline Floats projected(const Shape& shape, int sequence, int position) {
  Random random(uint64_t(sequence) * 100003 + position);
  Floats row(size_t(shape.s.heads + 2 * shape.s.kvHeads) * shape.s.headSize);
  for (float& x : row) x = float(rounded(random.normal() * 1.2, shape.s.type));
  return row;
}

inline int longest(const Shape& shape) { return *std::max_element(shape.lengths.begin(), shape.lengths.end()); }

inline void reserve(Run& run, const Shape& shape, int rows, int width) {
  Limits limits = {};
  limits.rows = rows;
  limits.width = limits.qkv = width;
  limits.heads = shape.s.heads;
  limits.headSize = shape.s.headSize;
  limits.positions = longest(shape);
  limits.type = shape.s.type;
  run.check(run.ops.reserve(limits));
}

inline Attend attendOp(const Shape& shape, const Array& q, const Cache& cache, const Array& y, const Rows& rows, long long yStride) {
  Attend a = {};
  a.q = q.data();
  a.cache = cache;
  a.y = y.data();
  a.step = rows;
  a.heads = shape.s.heads;
  a.yStride = yStride;
  a.scale = float(1 / std::sqrt(double(shape.s.headSize)));
  a.maxPositions = longest(shape);
  a.type = shape.s.type;
  return a;
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
    return run.weights(one, n, n, shape.weights, {});
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
    reserve(run, shape, rows, identity.matrix.n);
  }

  // Writes the chunks' keys and values, and returns their queries.
  Array project(const std::vector<Chunk>& chunks, const Step& step) {
    Floats x;
    for (const auto& c : chunks) {
      for (int i = 0; i < c.count; i++) {
        const Floats row = projected(shape, c.sequence, c.first + i);
        x.insert(x.end(), row.begin(), row.end());
      }
    }
    const Array input = run.array(x, shape.s.type), table = run.zeros(1, DType::float32);
    Array q = run.zeros(size_t(step.rows.rows) * shape.s.heads * shape.s.headSize, shape.s.type);
    Linear l = {};
    l.x = input.data();
    l.matrix = identity.matrix;
    l.qkv = {q.data(), cache, {table.floats(), table.floats(), 0}, shape.s.heads, 0};
    l.step = step.rows;
    l.rows = step.rows.rows;
    l.promptRows = step.rows.promptRows;
    l.xStride = identity.matrix.n;
    l.type = shape.s.type;
    run.check(run.ops.linear(l));
    return q;
  }

  Step stepOf(const std::vector<Chunk>& chunks) {
    std::vector<SequenceRows> sequences;
    int prompts = 0;
    for (const auto& c : chunks) {
      sequences.push_back({c.first, c.count, pages[c.sequence]});
      prompts += c.sequence < shape.prompts;
    }
    return run.step(sequences, prompts);
  }

  // Feeds a step and attends; results go to out[sequence][position].
  void feed(const std::vector<Chunk>& chunks, std::vector<std::vector<Floats>>& out) {
    const Step step = stepOf(chunks);
    // Rows of generated tokens may lie any number of elements apart; those of prompts an even one.
    const int width = shape.s.heads * shape.s.headSize, stride = width + (shape.prompts ? 2 : 3);
    const Array q = project(chunks, step), y = run.zeros(size_t(step.rows.rows) * stride, shape.s.type);
    run.check(run.ops.attend(attendOp(shape, q, cache, y, step.rows, stride)));
    const Floats got = run.read(y.data(), size_t(step.rows.rows) * stride, shape.s.type);
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

}  // namespace ewe::test::feeding

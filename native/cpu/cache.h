// The cache's blocks (layout in panels.h), and what becomes of the fused projection: clamp, rotation, queries out, keys and values into the cache.
#pragma once
#include "cpu/gemm.h"

namespace ewe::EWE_CPU {

struct KeyValueBlocks {
  const Cache& cache;
  char* keys(int page, int head) const { return block(page, 0, head); }
  char* values(int page, int head) const { return block(page, 1, head); }

 private:
  char* block(int page, int which, int head) const {
    return static_cast<char*>(cache.data) + ((long long)page * 2 + which) * cache.kvHeads * cache.blockBytes + head * cache.blockBytes;
  }
};

// Components [first, first + count) of the key of token t of a page.
inline void writeKey(char* block, const Cache& cache, int t, int first, int count, const float* x) {
  const long d = paddedK(cache.headSize, cache.type);
  const long panel = (t / kPanel) * d * kPanel;
  if (cache.type == DType::float32) {
    float* out = reinterpret_cast<float*>(block) + panel + first * kPanel + t % kPanel;
    for (int i = 0; i < count; i++) out[i * kPanel] = x[i];
    return;
  }
  uint16_t* out = reinterpret_cast<uint16_t*>(block) + panel + (t % kPanel) * 2;
  for (int i = first; i < first + count; i++) out[(i / 2) * 2 * kPanel + i % 2] = roundBfloat16(x[i - first]);
  // The zero that completes the last pair of an odd head.
  if (d > cache.headSize && first + count == cache.headSize) out[(d / 2 - 1) * 2 * kPanel + 1] = 0;
}

inline void writeValue(char* block, const Cache& cache, int t, int first, int count, const float* x) {
  const long d = roundUp(cache.headSize, kPanel);
  if (cache.type == DType::float32) {
    memcpy(reinterpret_cast<float*>(block) + t * d + first, x, size_t(count) * 4);
    return;
  }
  uint16_t* out = reinterpret_cast<uint16_t*>(block) + (t / 2) * d * 2 + first * 2 + t % 2;
  for (int i = 0; i < count; i++) out[i * 2] = roundBfloat16(x[i]);
}

// Columns [first, first + columns) of one row of the projection, bias added. Both ends must not cut a rotated pair.
inline void finishQkv(const Qkv& qkv, DType type, const Rows& step, int row, int first, int columns, float* c) {
  const Cache& cache = qkv.cache;
  const int d = cache.headSize, position = step.position[row];
  const int page = step.pages[(long long)step.sequence[row] * step.pagesStride + position / cache.pageSize], t = position % cache.pageSize;
  const float *cos = qkv.rotary.cos + (long long)position * (qkv.rotary.size / 2),
              *sin = qkv.rotary.sin + (long long)position * (qkv.rotary.size / 2);
  if (qkv.clip > 0) {
    for (int i = 0; i < columns; i++) c[i] = c[i] > qkv.clip ? qkv.clip : c[i] < -qkv.clip ? -qkv.clip : c[i];
  }
  const KeyValueBlocks blocks = {cache};
  for (int i = 0; i < columns;) {
    const int head = (first + i) / d, component = (first + i) % d;
    const int count = d - component < columns - i ? d - component : columns - i;
    float* x = c + i;
    if (head < qkv.heads + cache.kvHeads) {
      for (int j = 0; j + 1 < count && component + j + 1 < qkv.rotary.size; j += 2) {
        const float a = x[j], b = x[j + 1], cosine = cos[(component + j) / 2], sine = sin[(component + j) / 2];
        x[j] = a * cosine - b * sine;
        x[j + 1] = b * cosine + a * sine;
      }
    }
    if (head < qkv.heads) {
      const long long at = ((long long)row * qkv.heads + head) * d + component;
      if (type == DType::float32) {
        memcpy(static_cast<float*>(qkv.q) + at, x, size_t(count) * 4);
      } else {
        for (int j = 0; j < count; j++) static_cast<uint16_t*>(qkv.q)[at + j] = roundBfloat16(x[j]);
      }
    } else if (head < qkv.heads + cache.kvHeads) {
      writeKey(blocks.keys(page, head - qkv.heads), cache, t, component, count, x);
    } else {
      writeValue(blocks.values(page, head - qkv.heads - cache.kvHeads), cache, t, component, count, x);
    }
    i += count;
  }
}

// A tile of the projection. Heads of an odd size let a pair straddle two tiles: then the rows are gathered in `whole` [rows, n] first, and finished
// by finishRows once all tiles are there.
inline bool pairsStraddle(const Qkv& qkv) { return qkv.cache.headSize % 2 != 0 && qkv.rotary.size > 0; }

inline void finishQkvTile(const Qkv& qkv, DType type, const Rows& step, const Tile& t, float* whole, long long n) {
  for (int r = 0; r < t.rows; r++) {
    if (pairsStraddle(qkv)) {
      memcpy(whole + (t.firstRow + r) * n + t.firstColumn, t.c + r * kGroupColumns, size_t(t.columns) * 4);
    } else {
      finishQkv(qkv, type, step, t.firstRow + r, t.firstColumn, t.columns, t.c + r * kGroupColumns);
    }
  }
}

inline void finishQkvRows(Cpu& cpu, const Qkv& qkv, DType type, const Rows& step, int rows, float* whole, long long n) {
  if (!pairsStraddle(qkv)) return;
  cpu.each(rows, 1, [&](long begin, long end, int) {
    for (long row = begin; row < end; row++) finishQkv(qkv, type, step, int(row), 0, int(n), whole + row * n);
  });
}

}  // namespace ewe::EWE_CPU

// Products with weight matrices for linear.cc and block.cc: how they are cut into tiles and spread over threads, and what becomes of a finished tile.
#pragma once
#include "cpu/backend.h"
#include "cpu/panels.h"

namespace ewe::EWE_CPU {

// Rows of a product's input in the format of its matrix, zero padded along k to paddedK.
struct Operand {
  const void* data;
  long stride;  // elements
};

constexpr int kBlockSteps = 512;  // along k: a group's weights stay in the second-level cache while the rows pass
constexpr int kMaxRowBlock = 96;
constexpr int kPrivateRows = 6;  // up to here each thread prepares the input for itself rather than wait for the others
constexpr size_t kTileBytes = size_t(kMaxRowBlock) * kGroupColumns * 4;

// As many rows as keep their input in the second-level cache; any number gives the same bits.
constexpr int rowBlockOf(int rows, long k, Format format) {
  const long fit = (384 << 10) / (k * sizeOf(format)) / 12 * 12;
  const long block = fit < 12 ? 12 : fit > kMaxRowBlock ? kMaxRowBlock : fit;
  return int(rows < block ? rows : block);
}

template <class Kind>
void productOfGroup(const Matrix& m, Operand x, int rows, int firstPanel, int panels, float* c) {
  const long stored = paddedK(m.k, m.type);
  const auto* w = static_cast<const typename Kind::Weight*>(m.data) + firstPanel * stored * kPanel;
  const auto* rowData = static_cast<const typename Kind::Row*>(x.data);
  const int k = m.type == DType::int8 ? m.k : int(stored);
  constexpr int kBlock = kBlockSteps * Kind::kStep;
  for (int at = 0; at < k; at += kBlock) {
    const int n = k - at < kBlock ? k - at : kBlock;
    const Panels<Kind> block = {w + long(at) * kGroupColumns, Kind::kWidth, kGroup * Kind::kWidth};
    product<Kind>(rows, panels, n, rowData + at, x.stride, block, c, kGroupColumns, at > 0);
  }
}

// A finished tile: c[row][column] for `rows` rows and `columns` columns, kGroupColumns apart.
struct Tile {
  float* c;
  int matrix;  // which of the products
  int firstRow, rows, firstColumn, columns, thread;
};

// All products of the same rows with one or two matrices. operands(matrix, firstRow, thread) -> Operand; done(Tile) gets the bare products.
template <class Operands, class Done>
void multiply(Cpu& cpu, const Matrix* const* matrices, int count, int rows, Operands operands, Done done) {
  long groups[2] = {0, 0}, k = 0;
  for (int i = 0; i < count; i++) {
    groups[i] = roundUp(matrices[i]->n, kGroupColumns) / kGroupColumns;
    if (matrices[i]->k > k) k = matrices[i]->k;
  }
  const int rowBlock = rowBlockOf(rows, k, formatOf(matrices[0]->type));
  const long perBlock = groups[0] + groups[1], items = perBlock * (roundUp(rows, rowBlock) / rowBlock);
  const long grain = items / (long(cpu.threads()) * 8);  // small enough to even out, large enough to stream
  cpu.each(items, grain > 1 ? grain : 1, [&](long begin, long end, int thread) {
    float* c = static_cast<float*>(cpu.threadScratch(thread));
    for (long item = begin; item < end; item++) {
      const long inBlock = item % perBlock;
      const int which = inBlock >= groups[0];
      const Matrix& m = *matrices[which];
      Tile tile = {c, which, int(item / perBlock) * rowBlock, 0, int(which ? inBlock - groups[0] : inBlock) * kGroupColumns, 0, thread};
      tile.rows = rows - tile.firstRow < rowBlock ? rows - tile.firstRow : rowBlock;
      tile.columns = m.n - tile.firstColumn < kGroupColumns ? m.n - tile.firstColumn : kGroupColumns;
      const int panels = int(roundUp(tile.columns, kPanel) / kPanel);
      const Operand x = operands(which, tile.firstRow, thread);
      if (m.type == DType::float32) {
        productOfGroup<Float32Panels>(m, x, tile.rows, tile.firstColumn / kPanel, panels, c);
      } else if (m.type == DType::bfloat16) {
        productOfGroup<Bfloat16Panels>(m, x, tile.rows, tile.firstColumn / kPanel, panels, c);
      } else if (m.type == DType::int8) {
        productOfGroup<Int8Panels>(m, x, tile.rows, tile.firstColumn / kPanel, panels, c);
      } else {
        productOfGroup<Float16Panels>(m, x, tile.rows, tile.firstColumn / kPanel, panels, c);
      }
      done(tile);
    }
  });
}

// ---- inputs

// The rows of a product as they come, where the product can read them so; else converted: few rows by each thread for itself, many by all together.
class Input {
 public:
  Input(Cpu& cpu, const void* x, DType type, long long stride, int rows, int k) : cpu_(cpu), x_(x), stride_(stride), rows_(rows), k_(k), type_(type) {
    format_ = formatOf(type);
    direct_ = format_ == Format::float32 || (format_ == Format::bfloat16 && k % 2 == 0);
    ticket_ = cpu.takeTicket();
    if (direct_ || rows <= kPrivateRows) return;
    cpu.each(rows, 16, [&](long begin, long end, int) { convert(int(begin), int(end - begin), shared() + begin * rowBytes()); });
  }
  Operand operator()(int firstRow, int thread) const {
    if (direct_) return {static_cast<const char*>(x_) + firstRow * stride_ * ewe::sizeOf(type_), long(stride_)};
    if (rows_ > kPrivateRows) return {shared() + firstRow * rowBytes(), paddedK(k_, type_)};
    char* own = static_cast<char*>(cpu_.threadScratch(thread)) + kTileBytes;
    if (cpu_.first(thread, ticket_)) convert(0, rows_, own);
    return {own, paddedK(k_, type_)};
  }

 private:
  char* shared() const { return static_cast<char*>(cpu_.inputScratch()); }
  long rowBytes() const { return paddedK(k_, type_) * sizeOf(format_); }
  // Only bfloat16 rows are ever converted.
  void convert(int firstRow, int rows, char* out) const {
    for (int row = firstRow; row < firstRow + rows; row++, out += rowBytes()) {
      const auto* x = static_cast<const uint16_t*>(x_) + row * stride_;
      if (format_ == Format::bfloat16) {
        memcpy(out, x, size_t(k_) * 2);
        if (k_ % 2) reinterpret_cast<uint16_t*>(out)[k_] = 0;
      } else {
        auto* f = reinterpret_cast<float*>(out);
        int i = 0;
        for (; i + 16 <= k_; i += 16) store(f + i, fromBfloat16(x + i));
        for (; i < k_; i++) f[i] = fromBfloat16(x[i]);
        if (k_ % 2) f[k_] = 0;
      }
    }
  }

  Cpu& cpu_;
  const void* x_;
  long long stride_;
  int rows_, k_;
  DType type_;
  Format format_;
  bool direct_;
  long ticket_;
};

// ---- finishing tiles

template <class F>
EWE_INLINE void forVectors(const Tile& t, F f) {
  for (int r = 0; r < t.rows; r++)
    for (int column = 0; column < t.columns; column += 16) f(t.c + r * kGroupColumns + column, column);
}

// c = scale c / kByteUnit + bias, as far as the matrix has them. Lanes beyond the matrix hold padding, which nobody reads.
inline void addBias(const Tile& t, const Matrix& m) {
  if (!m.scale && !m.bias) return;
  forVectors(t, [&](float* c, int column) {
    const int at = t.firstColumn + column, left = t.columns - column;
    auto own = [&](const float* p) { return left >= 16 ? load(p + at) : loadFirst(p + at, left); };
    const Vector bias = m.bias ? own(m.bias) : zero();
    store(c, m.scale ? fma(own(m.scale), load(c) * set(1 / kByteUnit), bias) : load(c) + bias);
  });
}

inline void activate(const Tile& t, Activation activation) {
  switch (activation) {
    case Activation::none: break;
    case Activation::gelu: forVectors(t, [](float* c, int) { store(c, gelu(load(c))); }); break;
    case Activation::geluTanh: forVectors(t, [](float* c, int) { store(c, geluTanh(load(c))); }); break;
    case Activation::quickGelu: forVectors(t, [](float* c, int) { store(c, load(c) * sigmoid(load(c) * set(1.702f))); }); break;
    case Activation::silu: forVectors(t, [](float* c, int) { store(c, load(c) * sigmoid(load(c))); }); break;
    case Activation::relu: forVectors(t, [](float* c, int) { store(c, max(zero(), load(c))); }); break;
    case Activation::geluClipped: forVectors(t, [](float* c, int) { store(c, max(set(-10.f), min(set(10.f), gelu(load(c))))); }); break;
  }
}

// c = c + residual, [rows, n] of float32 with the given stride.
inline void addResidual(const Tile& t, const float* residual, long long stride) {
  forVectors(t, [&](float* c, int column) {
    const int left = t.columns - column;
    const float* p = residual + (t.firstRow + (c - t.c) / kGroupColumns) * stride + t.firstColumn + column;
    store(c, load(c) + (left >= 16 ? load(p) : loadFirst(p, left)));
  });
}

inline void storeTile(const Tile& t, void* y, DType type, long long stride) {
  for (int r = 0; r < t.rows; r++) {
    const float* c = t.c + r * kGroupColumns;
    const long long at = (t.firstRow + r) * stride + t.firstColumn;
    if (type == DType::float32) {
      memcpy(static_cast<float*>(y) + at, c, size_t(t.columns) * 4);
      continue;
    }
    auto* out = static_cast<uint16_t*>(y) + at;
    int i = 0;
    for (; i + 16 <= t.columns; i += 16) storeHalves(out + i, roundBfloat16(load(c + i)));
    for (; i < t.columns; i++) out[i] = roundBfloat16(c[i]);
  }
}

}  // namespace ewe::EWE_CPU

#include "cpu/backend.h"

#include "cpu/gemm.h"

namespace ewe::EWE_CPU {

size_t attentionScratch(int headSize);

// The only name that the baseline code knows of an instruction set.
Ops* create(Threads& threads) { return new Cpu(threads); }

Cpu::~Cpu() { host::release(scratch_); }

// ---- scratch memory

Cpu::Sizes Cpu::sizes(const Limits& l) const {
  const size_t norms = 2 * size_t(paddedK(l.width, l.type)) * sizeOf(formatOf(l.type));
  const size_t longest =
      size_t(paddedK(l.width > l.heads * l.headSize ? l.width : l.heads * l.headSize, DType::bfloat16) + paddedK(l.inner, DType::bfloat16));
  const size_t converted = l.type == DType::bfloat16 ? longest * sizeOf(formatOf(l.type)) : 0;
  const size_t perRow = norms > converted ? norms : converted;
  Sizes s;
  s.inputs = roundUp(long(perRow * l.rows), 64);
  s.projection = l.headSize % 2 ? roundUp(long(l.rows) * l.qkv * 4, 64) : 0;
  s.index = roundUp((long(l.rows) + 1) * 4, 64);
  size_t thread = kTileBytes + kPrivateRows * perRow;
  if (attentionScratch(l.headSize) > thread) thread = attentionScratch(l.headSize);
  if (size_t(l.vocab) * 8 + 4096 > thread) thread = size_t(l.vocab) * 8 + 4096;
  s.thread = kTicket + roundUp(long(thread), 64);
  return s;
}

size_t Cpu::scratchBytes(const Limits& l) const {
  const Sizes s = sizes(l);
  return s.shared() + s.thread * threads();
}

Status Cpu::reserve(const Limits& l) {
  host::release(scratch_);
  scratch_ = static_cast<char*>(host::allocate(scratchBytes(l)));
  if (!scratch_) {
    limits_ = {};
    return Status::fail(Kind::memory, "No memory for the %zu bytes of scratch of the CPU device.", scratchBytes(l));
  }
  limits_ = l;
  sizes_ = sizes(l);
  return {};
}

Status Cpu::checkProduct(const Matrix& m, DType type, int rows) const {
  if ((m.type == DType::bfloat16) != (type == DType::bfloat16) || type == DType::float16 || type == DType::int8)
    return Status::fail(Kind::internal, "The CPU multiplies bfloat16 matrices with bfloat16 inputs, others with float32 inputs.");
  if ((m.type == DType::int8) != (m.scale != nullptr)) return Status::fail(Kind::internal, "Matrices of int8, and no others, have scales.");
  const int longest = (limits_.width > limits_.heads * limits_.headSize ? limits_.width : limits_.heads * limits_.headSize) + limits_.inner;
  if (rows < 1 || rows > limits_.rows || m.k > longest || (type == DType::bfloat16 && limits_.type != type))
    return Status::fail(Kind::internal, "A product of %d rows and k = %d is beyond the reserved %d rows and k = %d.", rows, m.k, limits_.rows,
                        longest);
  return {};
}

Status Cpu::checkCache(const Cache& c, DType type, int rows) const {
  if (c.type != type || type == DType::float16) return Status::fail(Kind::internal, "The CPU's cache has the type of the activations.");
  if (c.pageSize < 1 || c.pageSize % kPanel || c.blockBytes < (long long)blockBytes(c.pageSize, c.headSize, c.type))
    return Status::fail(Kind::internal, "A cache with pages of %d tokens and blocks of %lld bytes does not fit the CPU's layout.", c.pageSize,
                        c.blockBytes);
  if (rows < 1 || rows > limits_.rows || c.headSize > limits_.headSize || (c.headSize % 2 && c.headSize != limits_.headSize))
    return Status::fail(Kind::internal, "%d rows with heads of %d are beyond the reserved %d rows and heads of %d.", rows, c.headSize, limits_.rows,
                        limits_.headSize);
  return {};
}

// ---- memory

Status Cpu::allocate(void** memory, size_t bytes) {
  *memory = host::allocate(bytes);
  if (!*memory) return Status::fail(Kind::memory, "No memory for an arena of %zu bytes.", bytes);
  return {};
}
void Cpu::release(void* memory) { host::release(memory); }
Status Cpu::upload(void* device, const void* host, size_t bytes) {
  memcpy(device, host, bytes);
  return {};
}
Status Cpu::download(void* host, const void* device, size_t bytes) {
  memcpy(host, device, bytes);
  return {};
}

// ---- matrices (layout in panels.h)

size_t Cpu::matrixBytes(int n, int k, DType type) const { return size_t(roundUp(n, kGroupColumns)) * paddedK(k, type) * ewe::sizeOf(type); }

static long indexOf(const Matrix& m, int row, int column) {
  const int step = m.type == DType::bfloat16 ? 2 : m.type == DType::int8 ? 4 : 1;
  const long group = (row / kGroupColumns) * paddedK(m.k, m.type) * kGroupColumns;
  return group + ((long)(column / step) * kGroupColumns + row % kGroupColumns) * step + column % step;
}

static Status checkPiece(const Matrix& m, int firstRow, int firstColumn, int rows, int columns) {
  if (firstRow >= 0 && firstColumn >= 0 && rows >= 0 && columns >= 0 && rows <= m.n - firstRow && columns <= m.k - firstColumn) return {};
  return Status::fail(Kind::internal, "A piece of %d x %d at row %d, column %d lies outside a matrix of %d x %d.", rows, columns, firstRow,
                      firstColumn, m.n, m.k);
}

// A column of 16 rows at a time: that is one vector of a panel, and 16 streams of the source.
Status Cpu::store(const Matrix& m, int firstRow, int firstColumn, int rows, int columns, const float* source, long long stride) {
  EWE_TRY(checkPiece(m, firstRow, firstColumn, rows, columns));
  void* data = const_cast<void*>(m.data);
  const bool lastColumn = firstColumn + columns == m.k && m.k % 2;
  for (int row = firstRow; row < firstRow + rows;) {
    const int left = firstRow + rows - row, inPanel = kPanel - row % kPanel, count = left < inPanel ? left : inPanel;
    const float* from = source + (row - firstRow) * stride;
    for (int c = 0; c < columns; c++) {
      const long at = indexOf(m, row, firstColumn + c);
      if (m.type == DType::float32) {
        for (int r = 0; r < count; r++) static_cast<float*>(data)[at + r] = from[r * stride + c];
      } else if (m.type == DType::bfloat16) {
        for (int r = 0; r < count; r++) static_cast<uint16_t*>(data)[at + r * 2] = roundBfloat16(from[r * stride + c]);
      } else if (m.type == DType::int8) {
        for (int r = 0; r < count; r++) static_cast<int8_t*>(data)[at + r * 4] = int8_t(from[r * stride + c]);
      } else {
        for (int r = 0; r < count; r++) static_cast<uint16_t*>(data)[at + r] = roundFloat16(from[r * stride + c]);
      }
    }
    if (lastColumn && m.type == DType::bfloat16) {
      for (int r = 0; r < count; r++) static_cast<uint16_t*>(data)[indexOf(m, row, m.k - 1) + r * 2 + 1] = 0;
    }
    row += count;
  }
  return {};
}

Status Cpu::fetch(const Matrix& m, int firstRow, int rows, float* target, long long stride) {
  EWE_TRY(checkPiece(m, firstRow, 0, rows, m.k));
  for (int row = firstRow; row < firstRow + rows; row++) {
    float* to = target + (row - firstRow) * stride;
    for (int c = 0; c < m.k; c++) {
      const long at = indexOf(m, row, c);
      if (m.type == DType::float32) {
        to[c] = static_cast<const float*>(m.data)[at];
      } else if (m.type == DType::bfloat16) {
        to[c] = fromBfloat16(static_cast<const uint16_t*>(m.data)[at]);
      } else if (m.type == DType::int8) {
        to[c] = m.scale[row] * static_cast<const int8_t*>(m.data)[at];
      } else {
        uint16_t lanes[16] = {static_cast<const uint16_t*>(m.data)[at]};
        storeFirst(to + c, fromFloat16(lanes), 1);
      }
    }
  }
  return {};
}

// ---- the cache

// Values pad a head to whole vectors; keys need less.
size_t Cpu::blockBytes(int pageSize, int headSize, DType type) const { return size_t(pageSize) * roundUp(headSize, kPanel) * ewe::sizeOf(type); }

Status Cpu::copyPage(const Cache& c, int layers, long long layerStride, int from, int to) {
  const long long bytes = 2 * c.kvHeads * c.blockBytes;
  for (int layer = 0; layer < layers; layer++) {
    char* base = static_cast<char*>(c.data) + layer * layerStride;
    memcpy(base + to * bytes, base + from * bytes, size_t(bytes));
  }
  return {};
}

}  // namespace ewe::EWE_CPU

// The backend's memory: arenas, the copies in and out that keep the order of the ops, and matrices in the order that the kernels want.
#include <algorithm>
#include <cstring>

#include "cuda/backend.h"
#include "kernels/attention_decode.plan.h"
#include "kernels/linear.plan.h"
#include "ops/convert.h"

namespace ewe::cuda {

Cuda::~Cuda() {
  if (!session_) return;
  // A lost card fails all of this, and the session's end frees what is left.
  forgetRecordings();
  (void)session_->synchronize(stream_).ok();
  if (scratch_) (void)session_->release(scratch_).ok();
  if (staging_) (void)session_->releaseHost(staging_).ok();
  if (stream_) (void)session_->destroyStream(stream_).ok();
}

// ---- arenas

static size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// What the ops need beside their arguments: both norms of BlockIn's prompt rows, or the partial results of the splits of generated rows' attention.
// Ops run one after another, so both have the same place. Behind it lie the counters by which the last split of a row is found.
static size_t partsBytes(const Limits& l) {
  return std::max(2 * size_t(l.rows) * size_t(l.width) * size_t(sizeOf(l.type)),
                  size_t(kernels::attendScratchBytes(l.rows, l.heads, l.headSize, l.positions)));
}
static size_t counterBytes(const Limits& l) { return std::max<size_t>(size_t(l.rows) * size_t(l.heads), 1) * sizeof(int); }

size_t Cuda::scratchBytes(const Limits& l) const { return aligned(partsBytes(l)) + aligned(counterBytes(l)); }

Status Cuda::reserve(const Limits& l) {
  std::lock_guard<std::mutex> lock(mutex_);
  forgetRecordings();  // they hold the old address
  EWE_TRY(session_->synchronize(stream_));
  if (scratch_) {
    void* old = scratch_;
    scratch_ = nullptr;
    counters_ = nullptr;
    EWE_TRY(session_->release(old));
  }
  EWE_TRY(session_->allocate(&scratch_, scratchBytes(l)));
  reserved_ = l;
  counters_ = reinterpret_cast<int*>(static_cast<char*>(scratch_) + aligned(partsBytes(l)));
  return session_->fill(stream_, counters_, 0, counterBytes(l));
}

Status Cuda::checkScratch(size_t bytes, int rows, int heads) const {
  if (scratch_ && bytes <= partsBytes(reserved_) && size_t(rows) * size_t(heads) * sizeof(int) <= counterBytes(reserved_)) return {};
  return Status::fail(Kind::internal, "an op of %d rows and %d heads needs %zu bytes of scratch: beyond what was reserved for %d rows", rows, heads,
                      bytes, scratch_ ? reserved_.rows : 0);
}

Status Cuda::allocate(void** memory, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  bytes = std::max<size_t>(bytes, 1);
  EWE_TRY(session_->allocate(memory, bytes));
  return session_->fill(stream_, *memory, 0, bytes);
}

void Cuda::release(void* memory) {
  std::lock_guard<std::mutex> lock(mutex_);
  // Only a lost card fails these, and then the memory goes with the session.
  (void)session_->synchronize(stream_).ok();
  (void)session_->release(memory).ok();
}

// ---- copies

// Waits for all that is under way: then the page-locked memory is free again.
Status Cuda::finish() {
  EWE_TRY(session_->synchronize(stream_));
  staged_ = 0;
  return {};
}

Status Cuda::copyIn(void* device, const void* host, size_t bytes) {
  if (recording_) return Status::fail(Kind::internal, "copies are no part of a recording");
  for (size_t done = 0; done < bytes;) {
    if (staged_ == kStagingBytes) EWE_TRY(finish());
    const size_t piece = std::min(bytes - done, kStagingBytes - staged_);
    std::memcpy(staging_ + staged_, static_cast<const char*>(host) + done, piece);
    EWE_TRY(session_->copyIn(stream_, static_cast<char*>(device) + done, staging_ + staged_, piece));
    done += piece;
    staged_ = std::min(kStagingBytes, (staged_ + piece + 63) / 64 * 64);
  }
  return {};
}

Status Cuda::copyOut(void* host, const void* device, size_t bytes) {
  if (recording_) return Status::fail(Kind::internal, "copies are no part of a recording");
  for (size_t done = 0; done < bytes;) {
    if (staged_ == kStagingBytes) EWE_TRY(finish());
    const size_t piece = std::min(bytes - done, kStagingBytes - staged_);
    unsigned char* at = staging_ + staged_;
    EWE_TRY(session_->copyOut(stream_, at, static_cast<const char*>(device) + done, piece));
    EWE_TRY(finish());
    std::memcpy(static_cast<char*>(host) + done, at, piece);
    done += piece;
  }
  return {};
}

Status Cuda::upload(void* device, const void* host, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  return copyIn(device, host, bytes);
}

Status Cuda::download(void* host, const void* device, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  return copyOut(host, device, bytes);
}

// ---- matrices: kernels/linear.plan.h says where each element lies

static Status checkPiece(const Matrix& m, int firstRow, int firstColumn, int rows, int columns) {
  if (m.type == DType::float32) return Status::fail(Kind::device, "a card holds no float32 matrices: load the weights as bfloat16, float16 or int8");
  if ((m.type == DType::int8) != (m.scale != nullptr)) return Status::fail(Kind::internal, "matrices of int8, and no others, have scales");
  if (firstRow >= 0 && firstColumn >= 0 && rows >= 0 && columns >= 0 && rows <= m.n - firstRow && columns <= m.k - firstColumn) return {};
  return Status::fail(Kind::internal, "a piece of %d x %d at row %d, column %d lies outside a matrix of %d x %d", rows, columns, firstRow,
                      firstColumn, m.n, m.k);
}

size_t Cuda::matrixBytes(int n, int k, DType type) const { return kernels::matrixBytes(limits_.path, n, k, type); }

// The tiles that hold some columns of up to 16 rows, which lie one behind another.
struct Tiles {
  size_t first, count;  // tiles
  size_t elements() const { return count * kernels::kTileOutputs * kernels::kTileInputs; }
  size_t offset() const { return first * kernels::kTileOutputs * kernels::kTileInputs; }
};

static Tiles tilesOf(const Matrix& m, int row, int firstColumn, int columns) {
  const size_t panel = size_t(row / kernels::kTileOutputs) * size_t(kernels::inputTiles(m.k));
  const int first = firstColumn / kernels::kTileInputs, last = (firstColumn + columns - 1) / kernels::kTileInputs;
  return {panel + size_t(first), size_t(last - first + 1)};
}

// In every order pairs of inputs lie side by side.
constexpr int kRun = 2;
constexpr bool keepsRuns() {
  for (const int path : {700, 750, 800, 900}) {
    for (const DType type : {DType::float16, DType::int8}) {
      for (int at = 0; at < kernels::kTileOutputs * kernels::kTileInputs; at++) {
        const int output = at / kernels::kTileInputs, input = at % kernels::kTileInputs;
        const int first = kernels::placeInTile(path, type, output, input / kRun * kRun);
        if (kernels::placeInTile(path, type, output, input) != first + input % kRun) return false;
      }
    }
  }
  return true;
}
static_assert(keepsRuns());

// Calls body(column, place, count) for the runs of some columns of a row; places count from the tile of firstColumn on.
template <class F>
static void eachRun(int path, DType type, int row, int firstColumn, int columns, F body) {
  constexpr int kRuns = kernels::kTileInputs / kRun;
  int places[kRuns];
  for (int i = 0; i < kRuns; i++) places[i] = kernels::placeInTile(path, type, row % kernels::kTileOutputs, kRun * i);
  const int base = firstColumn / kernels::kTileInputs * kernels::kTileInputs, end = firstColumn + columns;
  for (int column = firstColumn; column < end;) {
    const int in = column % kRun, count = std::min(kRun - in, end - column), run = (column - base) / kRun;
    body(column, size_t(run / kRuns) * kernels::kTileOutputs * kernels::kTileInputs + size_t(places[run % kRuns] + in), count);
    column += count;
  }
}

template <class T>
static void scatter(int path, const Matrix& m, int row, int firstColumn, int columns, const T* values, unsigned char* tiles) {
  eachRun(path, m.type, row, firstColumn, columns, [&](int column, size_t place, int count) {
    const T* from = values + (column - firstColumn);
    unsigned char* to = tiles + place * sizeof(T);
    count == kRun ? std::memcpy(to, from, kRun * sizeof(T)) : std::memcpy(to, from, size_t(count) * sizeof(T));  // the first is one instruction
  });
}

Status Cuda::store(const Matrix& m, int firstRow, int firstColumn, int rows, int columns, const float* source, long long stride) {
  EWE_TRY(checkPiece(m, firstRow, firstColumn, rows, columns));
  const int end = firstColumn + columns;
  std::vector<unsigned char> tiles, bytes(m.type == DType::int8 ? size_t(columns) : 0);
  std::vector<uint16_t> halves(m.type == DType::int8 ? 0 : size_t(columns));
  for (int row = firstRow, count; row < firstRow + rows && columns > 0; row += count) {
    count = std::min(firstRow + rows - row, kernels::kTileOutputs - row % kernels::kTileOutputs);
    const Tiles range = tilesOf(m, row, firstColumn, columns);
    tiles.assign(range.elements() * size_t(sizeOf(m.type)), 0);
    char* device = static_cast<char*>(const_cast<void*>(m.data)) + range.offset() * size_t(sizeOf(m.type));
    // Tiles that other pieces share are read, changed and written back, by one thread at a time.
    const bool whole = row % kernels::kTileOutputs == 0 && (count == kernels::kTileOutputs || row + count == m.n) &&
                       firstColumn % kernels::kTileInputs == 0 && (end % kernels::kTileInputs == 0 || end == m.k);
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    if (!whole) {
      lock.lock();
      EWE_TRY(copyOut(tiles.data(), device, tiles.size()));
    }
    for (int i = 0; i < count; i++) {
      const float* from = source + (row - firstRow + i) * stride;
      if (m.type == DType::int8) {
        for (int j = 0; j < columns; j++) bytes[size_t(j)] = (unsigned char)(int(from[j]) + kernels::kInt8Bias);
        scatter(limits_.path, m, row + i, firstColumn, columns, bytes.data(), tiles.data());
      } else {
        narrow(from, columns, m.type, halves.data());
        scatter(limits_.path, m, row + i, firstColumn, columns, halves.data(), tiles.data());
      }
    }
    if (whole) lock.lock();
    EWE_TRY(copyIn(device, tiles.data(), tiles.size()));
  }
  return {};
}

Status Cuda::fetch(const Matrix& m, int firstRow, int rows, float* target, long long stride) {
  EWE_TRY(checkPiece(m, firstRow, 0, rows, m.k));
  const size_t size = size_t(sizeOf(m.type));
  std::vector<unsigned char> tiles;
  std::vector<float> scales(m.type == DType::int8 ? size_t(rows) : 0);
  if (m.type == DType::int8) EWE_TRY(download(scales.data(), m.scale + firstRow, scales.size() * sizeof(float)));
  for (int row = firstRow; row < firstRow + rows; row++) {
    const Tiles range = tilesOf(m, row, 0, m.k);
    tiles.resize(range.elements() * size);
    if (row == firstRow || row % kernels::kTileOutputs == 0) {
      EWE_TRY(download(tiles.data(), static_cast<const char*>(m.data) + range.offset() * size, tiles.size()));
    }
    float* to = target + (row - firstRow) * stride;
    eachRun(limits_.path, m.type, row, 0, m.k, [&](int column, size_t place, int count) {
      if (m.type == DType::int8) {
        for (int i = 0; i < count; i++) to[column + i] = scales[size_t(row - firstRow)] * float(int(tiles[place + size_t(i)]) - kernels::kInt8Bias);
      } else {
        widen(&tiles[place * 2], m.type, count, to + column);
      }
    });
  }
  return {};
}

// ---- the cache: blocks are rows of one token each

size_t Cuda::blockBytes(int pageSize, int headSize, DType type) const { return size_t(pageSize) * size_t(headSize) * size_t(sizeOf(type)); }

Status Cuda::copyPage(const Cache& c, int layers, long long layerStride, int from, int to) {
  const long long bytes = 2 * c.kvHeads * c.blockBytes;
  for (int layer = 0; layer < layers; layer++) {
    char* base = static_cast<char*>(c.data) + layer * layerStride;
    EWE_TRY(session_->copy(stream_, base + to * bytes, base + from * bytes, size_t(bytes)));
  }
  return {};
}

}  // namespace ewe::cuda

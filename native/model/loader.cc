#include "model/loader.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <memory>

#include "ops/convert.h"
#include "ops/quantise.h"

namespace ewe {

// Rows converted at a time by one thread: whole groups of 16, about a megabyte of fp32.
static int pieceRows(int64_t columns) { return int(std::clamp<int64_t>((1 << 18) / std::max<int64_t>(columns, 1) / 16 * 16, 16, 4096)); }

static const char* fileOf(const Checkpoint& c, const StoredTensor& t) {
  return t.file >= 0 && size_t(t.file) < c.files.size() ? c.files[t.file].c_str() : "";
}

// The last byte a tensor reaches must lie inside its file.
static Status checkTensor(const Checkpoint& c, const StoredTensor& t, const std::vector<Mapping>& maps) {
  if (t.file < 0 || size_t(t.file) >= maps.size()) return Status::checkpoint("", t.name.c_str(), "names file %d of %zu", t.file, maps.size());
  const char* file = fileOf(c, t);
  if (t.rows < 1 || t.columns < 1 || t.rowStride < 0 || t.columnStride < 0) {
    return Status::checkpoint(file, t.name.c_str(), "has %" PRId64 " rows of %" PRId64 " with strides %" PRId64 ", %" PRId64, t.rows, t.columns,
                              t.rowStride, t.columnStride);
  }
  uint64_t a, b, last, bytes, end;
  if (__builtin_mul_overflow(uint64_t(t.rows - 1), uint64_t(t.rowStride), &a) ||
      __builtin_mul_overflow(uint64_t(t.columns - 1), uint64_t(t.columnStride), &b) || __builtin_add_overflow(a, b, &last) ||
      __builtin_add_overflow(last, uint64_t(1), &last) || __builtin_mul_overflow(last, uint64_t(sizeOf(t.type)), &bytes) ||
      __builtin_add_overflow(bytes, t.offset, &end) || end > maps[t.file].size()) {
    return Status::checkpoint(file, t.name.c_str(),
                              "reaches beyond the end of the file (%zu bytes): %" PRId64 " x %" PRId64 " elements from byte %" PRIu64,
                              maps[t.file].size(), t.rows, t.columns, t.offset);
  }
  return {};
}

// One row of a stored tensor as fp32.
static void readRow(const StoredTensor& t, const Mapping& map, int64_t row, float* out) {
  const unsigned char* at = map.data() + t.offset + uint64_t(row) * uint64_t(t.rowStride) * sizeOf(t.type);
  if (t.columnStride == 1) {
    widen(at, t.type, t.columns, out);
  } else {
    for (int64_t j = 0; j < t.columns; j++) widen(at + j * t.columnStride * sizeOf(t.type), t.type, 1, out + j);
  }
}

Status Loader::open() {
  maps_.resize(checkpoint_.files.size());
  for (size_t i = 0; i < maps_.size(); i++) EWE_TRY(Mapping::open(checkpoint_.files[i], maps_[i]));
  return {};
}

Status Loader::check(const Placement& p, const Target& target) const {
  const char* slot = kSlotNames[int(p.slot)];
  const char* file = p.tensors.empty() ? "" : fileOf(checkpoint_, p.tensors[0]);
  if (target.rows == 0) return Status::checkpoint(file, slot, "has no place in layer %d of this model", p.layer);
  if (p.rows != target.rows || p.columns != target.columns) {
    return Status::checkpoint(file, slot, "is %" PRId64 " x %" PRId64 ", expected %" PRId64 " x %" PRId64, p.rows, p.columns, target.rows,
                              target.columns);
  }
  for (const StoredTensor& t : p.tensors) {
    EWE_TRY(checkTensor(checkpoint_, t, maps_));
    if (t.columns != p.columns) return Status::checkpoint(file, t.name.c_str(), "has %" PRId64 " columns, expected %" PRId64, t.columns, p.columns);
  }
  std::vector<Source> map;
  return rowMap(p, map);
}

// The source of every target row; each must be named exactly once.
Status Loader::rowMap(const Placement& p, std::vector<Source>& map) const {
  const char* slot = kSlotNames[int(p.slot)];
  const char* file = p.tensors.empty() ? "" : fileOf(checkpoint_, p.tensors[0]);
  if (p.tensors.empty() || p.blocks.size() % 6 != 0) return Status::checkpoint(file, slot, "has no tensors or ragged blocks");
  map.assign(size_t(p.rows), Source{-1, -1});
  int64_t filled = 0;
  for (size_t i = 0; i < p.blocks.size(); i += 6) {
    const int32_t* b = &p.blocks[i];
    if (b[0] < 0 || size_t(b[0]) >= p.tensors.size())
      return Status::checkpoint(file, slot, "block %zu names tensor %d of %zu", i / 6, b[0], p.tensors.size());
    const int64_t count = b[5], lastSource = b[1] + (count - 1) * int64_t(b[2]), lastTarget = b[3] + (count - 1) * int64_t(b[4]);
    if (count < 1 || b[1] < 0 || b[2] < 0 || b[3] < 0 || b[4] < 1 || lastSource >= p.tensors[b[0]].rows || lastSource > INT32_MAX ||
        lastTarget >= p.rows) {
      return Status::checkpoint(file, p.tensors[b[0]].name.c_str(), "block %zu of %s is out of range", i / 6, slot);
    }
    for (int64_t j = 0; j < count; j++) {
      Source& source = map[size_t(b[3] + j * b[4])];
      if (source.tensor >= 0) return Status::checkpoint(file, slot, "row %" PRId64 " is named twice", b[3] + j * b[4]);
      source = {b[0], int32_t(b[1] + j * b[2])};
      filled++;
    }
  }
  if (filled != p.rows) return Status::checkpoint(file, slot, "%" PRId64 " of %" PRId64 " rows are named", filled, p.rows);
  return {};
}

template <class Body>
Status Loader::eachPiece(const Placement& p, const std::vector<Source>& map, Body body) {
  struct Own {  // a thread's
    std::vector<float> numbers;
    Status status;
  };
  const int piece = pieceRows(p.columns);
  const auto own = std::make_unique<Own[]>(size_t(threads_.count()));
  auto work = [&](long i, Own& mine) -> Status {
    const int64_t first = int64_t(i) * piece;
    const int rows = int(std::min<int64_t>(piece, p.rows - first));
    mine.numbers.resize(size_t(piece) * size_t(p.columns));
    for (int row = 0; row < rows; row++) {
      const Source& source = map[size_t(first + row)];
      const StoredTensor& t = p.tensors[size_t(source.tensor)];
      readRow(t, maps_[size_t(t.file)], source.row, &mine.numbers[size_t(row) * size_t(p.columns)]);
    }
    return body(first, rows, mine.numbers);
  };
  auto run = [&](long begin, long end, int thread) {
    Own& mine = own[size_t(thread)];
    for (long i = begin; i < end && mine.status.ok() && !cancel_; i++) mine.status = work(i, mine);
  };
  threads_.each(
      long((p.rows + piece - 1) / piece), 1, [](void* f, long begin, long end, int thread) { (*static_cast<decltype(run)*>(f))(begin, end, thread); },
      &run);
  for (int i = 0; i < threads_.count(); i++) EWE_TRY(std::move(own[size_t(i)].status));
  return {};
}

Status Loader::chooseScales(const std::vector<Part>& parts) {
  const Matrix& matrix = *parts[0].target.matrix;
  scales_.assign(size_t(matrix.n), 0);  // the largest magnitudes first
  for (const Part& part : parts) {
    const Placement& p = *part.placement;
    std::vector<Source> map;
    EWE_TRY(rowMap(p, map));
    EWE_TRY(eachPiece(p, map, [&](int64_t first, int rows, const std::vector<float>& numbers) -> Status {
      for (int row = 0; row < rows; row++) {
        float& largest = scales_[size_t(first + row)];
        largest = largestOf(&numbers[size_t(row) * size_t(p.columns)], p.columns, largest);
        if (std::isfinite(largest)) continue;
        const Source& source = map[size_t(first + row)];
        const StoredTensor& t = p.tensors[size_t(source.tensor)];
        return Status::checkpoint(fileOf(checkpoint_, t), t.name.c_str(), "row %d holds %s: int8 weights are made of finite numbers only", source.row,
                                  std::isnan(largest) ? "a NaN" : "an infinity");
      }
      return {};
    }));
  }
  for (float& scale : scales_) scale = scaleOf(scale);
  return ops_.upload(const_cast<float*>(matrix.scale), scales_.data(), scales_.size() * sizeof(float));
}

Status Loader::place(const Placement& p, const Target& target) {
  std::vector<Source> map;
  EWE_TRY(rowMap(p, map));
  if (target.vector) {
    EWE_TRY(placeVector(p, target, map));
  } else {
    EWE_TRY(eachPiece(p, map, [&](int64_t first, int rows, std::vector<float>& numbers) { return placePiece(target, first, rows, numbers); }));
  }
  for (const StoredTensor& t : p.tensors) {
    const uint64_t elements = uint64_t(t.rows - 1) * uint64_t(t.rowStride) + uint64_t(t.columns - 1) * uint64_t(t.columnStride) + 1;
    maps_[size_t(t.file)].forget(t.offset, elements * size_t(sizeOf(t.type)));
  }
  return {};
}

Status Loader::placeVector(const Placement& p, const Target& target, const std::vector<Source>& map) {
  std::vector<float> values(size_t(p.rows));
  for (size_t i = 0; i < values.size(); i++) {
    const StoredTensor& t = p.tensors[size_t(map[i].tensor)];
    readRow(t, maps_[size_t(t.file)], map[i].row, &values[i]);
  }
  if (target.add) {
    std::vector<float> before(size_t(p.rows));
    EWE_TRY(ops_.download(before.data(), target.vector, before.size() * sizeof(float)));
    for (size_t i = 0; i < values.size(); i++) values[i] += before[i];
  }
  return ops_.upload(const_cast<float*>(target.vector), values.data(), values.size() * sizeof(float));
}

// Numbers are quantised where they lie.
Status Loader::placePiece(const Target& target, int64_t first, int rows, std::vector<float>& numbers) {
  const int64_t columns = target.columns;
  if (target.matrix) {
    for (int row = 0; row < rows && target.matrix->type == DType::int8; row++) {
      float* at = &numbers[size_t(row) * size_t(columns)];
      quantise(at, columns, scales_[size_t(first + row)], at);
    }
    return ops_.store(*target.matrix, int(first), target.firstColumn, rows, int(columns), numbers.data(), columns);
  }
  const size_t width = size_t(columns) * size_t(sizeOf(target.tableType));
  std::vector<unsigned char> rounded(size_t(rows) * width);
  narrow(numbers.data(), rows * columns, target.tableType, rounded.data());
  return ops_.upload(static_cast<unsigned char*>(const_cast<void*>(target.table)) + size_t(first) * width, rounded.data(), rounded.size());
}

}  // namespace ewe

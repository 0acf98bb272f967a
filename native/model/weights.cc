#include "model/weights.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <map>
#include <memory>

#include "base/mapping.h"
#include "ops/convert.h"

namespace ewe {

static constexpr size_t kAlign = 64;
static size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Rows converted at a time by one thread: whole groups of 16, about a megabyte of fp32.
static int pieceRows(int64_t columns) { return int(std::clamp<int64_t>((1 << 18) / std::max<int64_t>(columns, 1) / 16 * 16, 16, 4096)); }

namespace {

// Hands out the arena in one fixed order, so that counting and placing cannot disagree: with a null base it only counts.
struct Carver {
  unsigned char* base;
  WeightBytes bytes{};
  size_t used = 0;

  void* take(size_t& part, size_t size) {
    size = aligned(size);
    void* at = base ? base + used : nullptr;
    used += size;
    part += size;
    return at;
  }
  float* vector(int width) { return static_cast<float*>(take(bytes.vectors, sizeof(float) * size_t(width))); }
  Matrix matrix(const Ops& ops, int n, int k, DType type, bool bias) {
    Matrix m{take(bytes.matrices, ops.matrixBytes(n, k, type)), nullptr, n, k, type};
    if (bias) m.bias = vector(n);
    return m;
  }
};

struct Presence {
  bool slots[kSlots] = {};
  bool has(Slot slot) const { return slots[int(slot)]; }
};

Weights carve(Carver& carver, const Spec& s, const Ops& ops, DType type, const Presence& present) {
  const int attention = s.heads * s.headSize, qkv = attention + 2 * s.kvHeads * s.headSize;
  Weights w{};
  w.embedType = type;
  w.embed = carver.take(carver.bytes.embedding, size_t(s.vocab) * s.hidden * sizeOf(type));
  w.layers.resize(s.layers);
  for (auto& layer : w.layers) {
    layer = {};
    layer.norm1Weight = carver.vector(s.hidden);
    if (present.has(Slot::norm1Bias)) layer.norm1Bias = carver.vector(s.hidden);
    if (!s.sharedNorm) {
      layer.norm2Weight = carver.vector(s.hidden);
      if (present.has(Slot::norm2Bias)) layer.norm2Bias = carver.vector(s.hidden);
    }
    layer.qkv = carver.matrix(ops, qkv, s.hidden, type, present.has(Slot::qkvBias));
    layer.up = carver.matrix(ops, s.inner, s.hidden, type, present.has(Slot::upBias));
    if (s.parallel) {
      layer.blockOut = carver.matrix(ops, s.hidden, attention + s.inner, type, present.has(Slot::outBias) || present.has(Slot::downBias));
    } else {
      layer.out = carver.matrix(ops, s.hidden, attention, type, present.has(Slot::outBias));
      layer.down = carver.matrix(ops, s.hidden, s.inner, type, present.has(Slot::downBias));
    }
  }
  w.finalWeight = carver.vector(s.hidden);
  if (present.has(Slot::finalBias)) w.finalBias = carver.vector(s.hidden);
  w.head = carver.matrix(ops, s.vocab, s.hidden, type, present.has(Slot::headBias));
  return w;
}

// Where a placement's rows go: a matrix (from some column on), the embedding table, or a vector (added to what is there, for the sum of two biases).
struct Target {
  const Matrix* matrix = nullptr;
  int firstColumn = 0;
  bool embedding = false;
  const float* vector = nullptr;
  bool add = false;
  int64_t rows = 0, columns = 1;
};

Target targetOf(const Placement& p, const Spec& s, const Weights& w, const Presence& present) {
  const LayerWeights* layer = p.layer >= 0 && p.layer < s.layers ? &w.layers[p.layer] : nullptr;
  const int attention = s.heads * s.headSize;
  auto matrix = [](const Matrix& m, int firstColumn = 0, int columns = -1) {
    Target t;
    t.matrix = &m;
    t.firstColumn = firstColumn;
    t.rows = m.n;
    t.columns = columns < 0 ? m.k : columns;
    return t;
  };
  auto vector = [](const float* v, int rows, bool add = false) {
    Target t;
    t.vector = v;
    t.rows = rows;
    t.add = add;
    return t;
  };
  if (p.layer != 0 && (p.slot == Slot::embed || p.slot >= Slot::finalWeight)) return {};
  switch (p.slot) {
    case Slot::embed: {
      Target t;
      t.embedding = true;
      t.rows = s.vocab;
      t.columns = s.hidden;
      return t;
    }
    case Slot::finalWeight: return vector(w.finalWeight, s.hidden);
    case Slot::finalBias: return vector(w.finalBias, s.hidden);
    case Slot::head: return matrix(w.head);
    case Slot::headBias: return vector(w.head.bias, s.vocab);
    default: break;
  }
  if (!layer) return {};
  switch (p.slot) {
    case Slot::norm1Weight: return vector(layer->norm1Weight, s.hidden);
    case Slot::norm1Bias: return vector(layer->norm1Bias, s.hidden);
    case Slot::norm2Weight: return s.sharedNorm ? Target{} : vector(layer->norm2Weight, s.hidden);
    case Slot::norm2Bias: return s.sharedNorm ? Target{} : vector(layer->norm2Bias, s.hidden);
    case Slot::qkv: return matrix(layer->qkv);
    case Slot::qkvBias: return vector(layer->qkv.bias, layer->qkv.n);
    case Slot::up: return matrix(layer->up);
    case Slot::upBias: return vector(layer->up.bias, layer->up.n);
    case Slot::out: return s.parallel ? matrix(layer->blockOut, 0, attention) : matrix(layer->out);
    case Slot::down: return s.parallel ? matrix(layer->blockOut, attention, s.inner) : matrix(layer->down);
    case Slot::outBias: return s.parallel ? vector(layer->blockOut.bias, s.hidden) : vector(layer->out.bias, s.hidden);
    case Slot::downBias: return s.parallel ? vector(layer->blockOut.bias, s.hidden, present.has(Slot::outBias)) : vector(layer->down.bias, s.hidden);
    default: return {};
  }
}

const char* fileOf(const Checkpoint& c, const StoredTensor& t) {
  return t.file >= 0 && size_t(t.file) < c.files.size() ? c.files[t.file].c_str() : "";
}

// The last byte a tensor reaches must lie inside its file.
Status checkTensor(const Checkpoint& c, const StoredTensor& t, const std::vector<Mapping>& maps) {
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

struct Source {
  int32_t tensor;
  int32_t row;
};

// The source of every target row; each must be named exactly once.
Status rowMap(const Checkpoint& c, const Placement& p, std::vector<Source>& map) {
  const char* slot = kSlotNames[int(p.slot)];
  const char* file = p.tensors.empty() ? "" : fileOf(c, p.tensors[0]);
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

// One row of a stored tensor as fp32.
void readRow(const StoredTensor& t, const Mapping& map, int64_t row, float* out) {
  const unsigned char* at = map.data() + t.offset + uint64_t(row) * uint64_t(t.rowStride) * sizeOf(t.type);
  if (t.columnStride == 1) {
    widen(at, t.type, t.columns, out);
  } else {
    for (int64_t j = 0; j < t.columns; j++) widen(at + j * t.columnStride * sizeOf(t.type), t.type, 1, out + j);
  }
}

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, Ops& ops, Threads& threads, const std::atomic<bool>& cancel)
      : checkpoint_(checkpoint), ops_(ops), threads_(threads), cancel_(cancel) {}

  Status open() {
    maps_.resize(checkpoint_.files.size());
    for (size_t i = 0; i < maps_.size(); i++) EWE_TRY(Mapping::open(checkpoint_.files[i], maps_[i]));
    return {};
  }

  Status check(const Placement& p, const Target& target) {
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
    return rowMap(checkpoint_, p, map);
  }

  Status place(const Placement& p, const Target& target, const void* embed, DType embedType) {
    std::vector<Source> map;
    EWE_TRY(rowMap(checkpoint_, p, map));
    Status status = target.vector ? placeVector(p, target, map) : placeRows(p, target, map, embed, embedType);
    for (const StoredTensor& t : p.tensors) {
      uint64_t elements = uint64_t(t.rows - 1) * t.rowStride + uint64_t(t.columns - 1) * t.columnStride + 1;
      maps_[t.file].forget(t.offset, elements * sizeOf(t.type));
    }
    return status;
  }

 private:
  Status placeVector(const Placement& p, const Target& target, const std::vector<Source>& map) {
    std::vector<float> values(size_t(p.rows));
    for (int64_t i = 0; i < p.rows; i++) readRow(p.tensors[map[i].tensor], maps_[p.tensors[map[i].tensor].file], map[i].row, &values[i]);
    if (target.add) {
      std::vector<float> before(size_t(p.rows));
      EWE_TRY(ops_.download(before.data(), target.vector, before.size() * sizeof(float)));
      for (size_t i = 0; i < values.size(); i++) values[i] += before[i];
    }
    return ops_.upload(const_cast<float*>(target.vector), values.data(), values.size() * sizeof(float));
  }

  Status placeRows(const Placement& p, const Target& target, const std::vector<Source>& map, const void* embed, DType embedType) {
    struct Job {
      Loader* loader;
      const Placement* p;
      const Target* target;
      const std::vector<Source>* map;
      unsigned char* embed;
      DType embedType;
      std::unique_ptr<std::vector<float>[]> staging;
      std::unique_ptr<std::vector<unsigned char>[]> rounded;
      std::unique_ptr<Status[]> status;
      int piece;
    } job{this, &p, &target, &map, static_cast<unsigned char*>(const_cast<void*>(embed)), embedType, {}, {}, {}, pieceRows(p.columns)};
    job.staging.reset(new std::vector<float>[threads_.count()]);
    job.rounded.reset(new std::vector<unsigned char>[threads_.count()]);
    job.status.reset(new Status[threads_.count()]);
    const long pieces = long((p.rows + job.piece - 1) / job.piece);
    threads_.each(
        pieces, 1,
        [](void* context, long begin, long end, int thread) {
          Job& job = *static_cast<Job*>(context);
          for (long i = begin; i < end && job.status[thread].ok() && !job.loader->cancel_; i++) {
            job.status[thread] = job.loader->placePiece(*job.p, *job.target, *job.map, i * job.piece, job.piece, job.embed, job.embedType,
                                                        job.staging[thread], job.rounded[thread]);
          }
        },
        &job);
    for (int i = 0; i < threads_.count(); i++) EWE_TRY(std::move(job.status[i]));
    return {};
  }

  Status placePiece(const Placement& p, const Target& target, const std::vector<Source>& map, int64_t first, int piece, unsigned char* embed,
                    DType embedType, std::vector<float>& staging, std::vector<unsigned char>& rounded) {
    const int rows = int(std::min<int64_t>(piece, p.rows - first));
    staging.resize(size_t(piece) * size_t(p.columns));
    for (int i = 0; i < rows; i++) {
      const Source& source = map[size_t(first + i)];
      const StoredTensor& t = p.tensors[source.tensor];
      readRow(t, maps_[t.file], source.row, &staging[size_t(i) * size_t(p.columns)]);
    }
    if (!target.embedding) return ops_.store(*target.matrix, int(first), target.firstColumn, rows, int(p.columns), staging.data(), p.columns);
    rounded.resize(size_t(rows) * size_t(p.columns) * sizeOf(embedType));
    narrow(staging.data(), int64_t(rows) * p.columns, embedType, rounded.data());
    return ops_.upload(embed + size_t(first) * size_t(p.columns) * sizeOf(embedType), rounded.data(), rounded.size());
  }

  const Checkpoint& checkpoint_;
  Ops& ops_;
  Threads& threads_;
  const std::atomic<bool>& cancel_;
  std::vector<Mapping> maps_;
};

Presence presenceOf(const Checkpoint& c) {
  Presence present;
  for (const Placement& p : c.placements) present.slots[int(p.slot)] = true;
  return present;
}

// Each slot that the spec asks for exactly once per layer.
Status checkComplete(const Checkpoint& c, const Presence& present) {
  const Spec& s = c.spec;
  std::map<std::pair<int, int>, int> seen;
  for (const Placement& p : c.placements) {
    if (++seen[{int(p.slot), p.layer}] > 1) return Status::checkpoint("", kSlotNames[int(p.slot)], "is placed twice in layer %d", p.layer);
  }
  for (int slot = 0; slot < kSlots; slot++) {
    const Slot kind = Slot(slot);
    const bool layered = kind != Slot::embed && kind < Slot::finalWeight;
    const bool optional = kind == Slot::norm1Bias || kind == Slot::norm2Bias || kind == Slot::qkvBias || kind == Slot::outBias ||
                          kind == Slot::upBias || kind == Slot::downBias || kind == Slot::finalBias || kind == Slot::headBias;
    if (optional && !present.has(kind)) continue;
    if (kind == Slot::norm2Weight && s.sharedNorm) continue;
    for (int layer = 0; layer < (layered ? s.layers : 1); layer++) {
      if (!seen.count({slot, layer})) return Status::checkpoint("", kSlotNames[slot], "is missing in layer %d", layer);
    }
  }
  return {};
}

}  // namespace

WeightBytes weightBytes(const Spec& spec, const Ops& ops, DType type) {
  // Every optional bias counted: a few kilobytes that make the plan independent of the files.
  Presence all;
  std::fill(std::begin(all.slots), std::end(all.slots), true);
  Carver counter{nullptr};
  carve(counter, spec, ops, type, all);
  return counter.bytes;
}

Status loadWeights(const Checkpoint& checkpoint, DType type, Ops& ops, Threads& threads, void* memory, Weights& out,
                   const std::function<void(uint64_t, uint64_t)>& progress, const std::atomic<bool>& cancel) {
  const Presence present = presenceOf(checkpoint);
  EWE_TRY(checkComplete(checkpoint, present));
  Carver carver{static_cast<unsigned char*>(memory)};
  out = carve(carver, checkpoint.spec, ops, type, present);

  Loader loader(checkpoint, ops, threads, cancel);
  EWE_TRY(loader.open());
  uint64_t total = 0, done = 0;
  auto bytesOf = [](const Placement& p) { return uint64_t(p.rows) * uint64_t(p.columns) * sizeOf(p.tensors[0].type); };
  for (const Placement& p : checkpoint.placements) {
    EWE_TRY(loader.check(p, targetOf(p, checkpoint.spec, out, present)));
    total += bytesOf(p);
  }
  // In the order of the slots, because the second of two summed biases adds to the first.
  std::vector<const Placement*> order;
  for (const Placement& p : checkpoint.placements) order.push_back(&p);
  std::stable_sort(order.begin(), order.end(),
                   [](const Placement* a, const Placement* b) { return std::pair(a->layer, int(a->slot)) < std::pair(b->layer, int(b->slot)); });
  for (const Placement* p : order) {
    if (cancel) return Status::fail(Kind::aborted, "loading was cancelled");
    EWE_TRY(loader.place(*p, targetOf(*p, checkpoint.spec, out, present), out.embed, out.embedType));
    done += bytesOf(*p);
    progress(done, total);
  }
  if (cancel) return Status::fail(Kind::aborted, "loading was cancelled");
  return {};
}

}  // namespace ewe

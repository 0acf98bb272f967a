#include "model/weights.h"

#include <algorithm>
#include <map>

#include "model/loader.h"

namespace ewe {

static constexpr size_t kAlign = 64;
static size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

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
    Matrix m{take(bytes.matrices, ops.matrixBytes(n, k, type)), nullptr, n, k, type, nullptr};
    if (type == DType::int8) m.scale = static_cast<float*>(take(bytes.matrices, sizeof(float) * size_t(n)));
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
  const DType outer = unquantisedType(ops, type);
  Weights w{};
  w.embedType = outer;
  w.embed = carver.take(carver.bytes.embedding, size_t(s.vocab) * s.hidden * sizeOf(outer));
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
  w.head = carver.matrix(ops, s.vocab, s.hidden, outer, present.has(Slot::headBias));
  return w;
}

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
      t.table = w.embed;
      t.tableType = w.embedType;
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

// Why neither the table nor the head is quantised. The trained model models/lamb (12,970 tokens of its held-out texts; logits with an rms of 2.96),
// against float32 weights:
//
//   int8                            KL divergence   rms error of logits   largest   other best token
//   layers alone                    0.89e-4         0.0177                0.42      0.35 %
//   layers and head                 1.77e-4         0.0274                0.41      0.39 %
//   layers and table                1.46e-4         0.0209                0.54      0.40 %
//   layers, table and head          2.36e-4         0.0296                0.54      0.49 %
//
// The head alone costs as much accuracy as all layers together, the table half as much; with both, the divergence of the seven random reference
// models is 1.1 to 2.5 times that of their layers alone. And they are few of the bytes: with an int8 head a step of Dolly 3b would read 5 % less, one
// of 12b 2 %, and of the table a step reads one row a token.
DType unquantisedType(const Ops& ops, DType weights) {
  if (weights != DType::int8) return weights;
  return ops.activationType(weights) == DType::bfloat16 ? DType::bfloat16 : DType::float16;
}

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
  // In the order of the slots, because the second of two summed biases adds to the first; but parts of one matrix together, because they share
  // scales.
  std::vector<const Placement*> order;
  for (const Placement& p : checkpoint.placements) order.push_back(&p);
  auto rank = [](const Placement* p) { return std::pair(p->layer, p->slot == Slot::down ? int(Slot::out) * 2 + 1 : int(p->slot) * 2); };
  std::stable_sort(order.begin(), order.end(), [&](const Placement* a, const Placement* b) { return rank(a) < rank(b); });
  std::vector<Part> parts;
  for (const Placement* p : order) parts.push_back({p, targetOf(*p, checkpoint.spec, out, present)});
  const Matrix* scaled = nullptr;
  for (auto part = parts.begin(); part != parts.end(); ++part) {
    if (cancel) return Status::fail(Kind::aborted, "loading was cancelled");
    const Matrix* matrix = part->target.matrix;
    if (matrix && matrix->type == DType::int8 && matrix != scaled) {
      EWE_TRY(loader.chooseScales({part, std::find_if(part, parts.end(), [&](const Part& other) { return other.target.matrix != matrix; })}));
      scaled = matrix;
    }
    EWE_TRY(loader.place(*part->placement, part->target));
    done += bytesOf(*part->placement);
    progress(done, total);
  }
  if (cancel) return Status::fail(Kind::aborted, "loading was cancelled");
  return {};
}

}  // namespace ewe

#include "model/forward.h"

#include <cmath>

namespace ewe {

// Each frequency through one fp32 exponent, a power in double and one fp32 reciprocal: the bits of torch's fp32 tables.
void rotaryTables(const Spec& spec, int positions, float* cos, float* sin) {
  const int pairs = spec.rotarySize / 2;
  for (int j = 0; j < pairs; j++) {
    const float exponent = float(2 * j) / float(spec.rotarySize);
    const float power = float(std::pow(spec.rotaryBase, double(exponent)));
    const float frequency = 1.0f / power;
    for (int position = 0; position < positions; position++) {
      const float angle = float(position) * frequency;
      cos[size_t(position) * pairs + j] = float(std::cos(double(angle)));
      sin[size_t(position) * pairs + j] = float(std::sin(double(angle)));
    }
  }
}

namespace {

// What every layer of a step shares.
struct Pass {
  Ops& ops;
  const Model& model;
  const Activations& act;
  const Step& step;
  int attention;  // heads headSize
  int wide;       // attention + inner

  void* hiddenColumns() const { return static_cast<unsigned char*>(act.wide) + size_t(attention) * sizeOf(act.type); }

  Cache cacheOf(int layer) const {
    Cache cache = model.cache;
    cache.data = static_cast<unsigned char*>(cache.data) + layer * model.cacheLayer;
    return cache;
  }

  Qkv qkv(int layer) const {
    const Spec& s = model.spec;
    return {act.q, cacheOf(layer), {model.rotary.cos, model.rotary.sin, s.rotarySize}, s.heads, s.clipQkv};
  }

  Status attend(int layer) const {
    const Spec& s = model.spec;
    Attend op{};
    op.q = act.q;
    op.cache = cacheOf(layer);
    op.y = act.wide;
    op.step = step.rows;
    op.heads = s.heads;
    op.yStride = wide;
    op.scale = float(1 / std::sqrt(double(s.headSize)));
    op.maxPositions = step.maxPositions;
    op.type = act.type;
    return ops.attend(op);
  }

  Status norm(const void* x, const int* select, int rows, const float* weight, const float* bias, void* y) const {
    Norm op{};
    op.x = x;
    op.select = select;
    op.weight = weight;
    op.bias = bias;
    op.y = y;
    op.live = step.rows.live;
    op.rows = rows;
    op.width = model.spec.hidden;
    op.eps = model.spec.normEps;
    op.residualType = act.residualType;
    op.type = act.type;
    return ops.norm(op);
  }

  Linear linear(const void* x, long long xStride, const Matrix& matrix, void* y, long long yStride, DType outputType) const {
    Linear op{};
    op.x = x;
    op.matrix = matrix;
    op.y = y;
    op.live = step.rows.live;
    op.rows = step.rows.rows;
    op.promptRows = step.rows.promptRows;
    op.xStride = xStride;
    op.yStride = yStride;
    op.type = act.type;
    op.outputType = outputType;
    op.residualType = act.residualType;
    return op;
  }

  // x + attention(norm1 x) + mlp(norm2 x)
  Status parallel(int layer, const LayerWeights& w) const {
    const Spec& s = model.spec;
    BlockIn in{};
    in.x = act.x;
    in.weight = w.norm1Weight;
    in.bias = w.norm1Bias;
    in.weight2 = w.norm2Weight;
    in.bias2 = w.norm2Bias;
    in.qkvMatrix = w.qkv;
    in.up = w.up;
    in.qkv = qkv(layer);
    in.hidden = hiddenColumns();
    in.step = step.rows;
    in.width = s.hidden;
    in.hiddenStride = wide;
    in.eps = s.normEps;
    in.activation = s.activation;
    in.residualType = act.residualType;
    in.type = act.type;
    EWE_TRY(ops.blockIn(in));
    EWE_TRY(attend(layer));
    BlockOut out{};
    out.x = act.wide;
    out.matrix = w.blockOut;
    out.y = act.x;
    out.live = step.rows.live;
    out.rows = step.rows.rows;
    out.promptRows = step.rows.promptRows;
    out.residualType = act.residualType;
    out.type = act.type;
    return ops.blockOut(out);
  }

  // x1 = x + attention(norm1 x); x1 + mlp(norm2 x1)
  Status sequential(int layer, const LayerWeights& w) const {
    const Spec& s = model.spec;
    EWE_TRY(norm(act.x, nullptr, step.rows.rows, w.norm1Weight, w.norm1Bias, act.a));
    Linear project = linear(act.a, s.hidden, w.qkv, nullptr, 0, act.type);
    project.qkv = qkv(layer);
    project.step = step.rows;
    EWE_TRY(ops.linear(project));
    EWE_TRY(attend(layer));
    Linear out = linear(act.wide, wide, w.out, act.x, s.hidden, act.residualType);
    out.residual = act.x;
    EWE_TRY(ops.linear(out));
    EWE_TRY(norm(act.x, nullptr, step.rows.rows, w.norm2Weight, w.norm2Bias, act.a));
    Linear up = linear(act.a, s.hidden, w.up, hiddenColumns(), wide, act.type);
    up.activation = s.activation;
    EWE_TRY(ops.linear(up));
    Linear down = linear(hiddenColumns(), wide, w.down, act.x, s.hidden, act.residualType);
    down.residual = act.x;
    return ops.linear(down);
  }
};

}  // namespace

Status forward(Ops& ops, const Model& model, const Activations& activations, const Step& step, const std::atomic<bool>& stop, Save* save) {
  const Spec& s = model.spec;
  const Pass pass{ops, model, activations, step, s.heads * s.headSize, s.heads * s.headSize + s.inner};
  Embed embed{};
  embed.table = model.weights.embed;
  embed.x = activations.x;
  embed.rows = step.rows;
  embed.vocab = s.vocab;
  embed.width = s.hidden;
  embed.tableType = model.weights.embedType;
  embed.residualType = activations.residualType;
  EWE_TRY(ops.embed(embed));
  for (int layer = 0; layer < s.layers; layer++) {
    if (stop.load(std::memory_order_relaxed)) return Status::fail(Kind::aborted, "stopped in layer %d of %d", layer, s.layers);
    if (save) EWE_TRY(save->residual(layer, activations.x));
    const LayerWeights& weights = model.weights.layers[layer];
    EWE_TRY(s.parallel ? pass.parallel(layer, weights) : pass.sequential(layer, weights));
  }
  if (save) EWE_TRY(save->residual(s.layers, activations.x));
  return {};
}

// The head has one class: the same arithmetic for rows that a prompt or a generated token left.
Status head(Ops& ops, const Model& model, const Activations& activations, const int* rows, int count, const int* live, Save* save) {
  Step step{};
  step.rows.live = live;
  const Pass pass{ops, model, activations, step, 0, 0};
  const Spec& s = model.spec;
  EWE_TRY(pass.norm(activations.x, rows, count, model.weights.finalWeight, model.weights.finalBias, activations.a));
  if (save) EWE_TRY(save->final(activations.a));
  Linear op = pass.linear(activations.a, s.hidden, model.weights.head, activations.logits, s.vocab, DType::float32);
  op.rows = count;
  return ops.linear(op);
}

}  // namespace ewe

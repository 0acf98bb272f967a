#include "models.h"

#include <stdexcept>

#include "ops/convert.h"

namespace ewe::test {

static bool isNeox(const Json& config) { return config["model_type"].string == "gpt_neox"; }

static Activation activationOf(const std::string& name) {
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new") return Activation::geluTanh;
  throw std::runtime_error("no fixture has the activation " + name);
}

Spec specOf(const Json& config) {
  Spec s{};
  const auto number = [&](const char* name) { return config[name].number; };
  s.vocab = int(number("vocab_size"));
  s.rotaryBase = 10000;
  if (isNeox(config)) {
    const bool nested = config.has("rope_parameters");
    s.hidden = int(number("hidden_size"));
    s.layers = int(number("num_hidden_layers"));
    s.heads = int(number("num_attention_heads"));
    s.inner = int(number("intermediate_size"));
    s.maxPositions = int(number("max_position_embeddings"));
    s.parallel = number("use_parallel_residual") != 0;
    s.activation = activationOf(config["hidden_act"].string);
    s.normEps = float(number("layer_norm_eps"));
    s.rotaryBase = nested ? config["rope_parameters"]["rope_theta"].number : number("rotary_emb_base");
    s.rotarySize = int(s.hidden / s.heads * (nested ? config["rope_parameters"]["partial_rotary_factor"].number : number("rotary_pct")));
  } else {
    s.hidden = int(number("n_embd"));
    s.layers = int(number("n_layer"));
    s.heads = int(number("n_head"));
    s.inner = config["n_inner"].kind == Json::null ? 4 * s.hidden : int(number("n_inner"));
    s.maxPositions = int(number("n_positions"));
    s.parallel = s.sharedNorm = true;
    s.activation = activationOf(config["activation_function"].string);
    s.normEps = float(number("layer_norm_epsilon"));
    s.rotarySize = int(number("rotary_dim"));
  }
  s.kvHeads = s.heads;
  s.headSize = s.hidden / s.heads;
  return s;
}

int placeInHead(const Json& config, int c) {
  const int half = specOf(config).rotarySize / 2;
  if (!isNeox(config) || c >= 2 * half) return c;
  return c < half ? 2 * c : 2 * (c - half) + 1;
}

// One block per row: the plainest way to say where each comes from.
static std::vector<int32_t> projectionBlocks(const Json& config, const Spec& s) {
  std::vector<int32_t> blocks;
  for (int part = 0; part < 3; part++) {
    for (int head = 0; head < s.heads; head++) {
      for (int c = 0; c < s.headSize; c++) {
        const int target = (part * s.heads + head) * s.headSize + (part < 2 ? placeInHead(config, c) : c);
        if (isNeox(config)) {
          blocks.insert(blocks.end(), {0, (head * 3 + part) * s.headSize + c, 1, target, 1, 1});
        } else {
          blocks.insert(blocks.end(), {part, head * s.headSize + c, 1, target, 1, 1});
        }
      }
    }
  }
  return blocks;
}

Checkpoint checkpointOf(const Json& config, const std::string& file, const std::map<std::string, StoredTensor>& tensors) {
  Checkpoint c{specOf(config), {file}, {}};
  auto place = [&](Slot slot, int layer, const std::vector<std::string>& names, bool projection = false) {
    Placement p{slot, layer, 0, 1, {}, {}};
    for (const std::string& name : names) {
      const auto found = tensors.find(name);
      if (found == tensors.end()) throw std::runtime_error("there is no tensor " + name);
      p.tensors.push_back(found->second);
      p.rows += found->second.rows;
      p.columns = found->second.columns;
    }
    p.blocks = projection ? projectionBlocks(config, c.spec) : std::vector<int32_t>{0, 0, 1, 0, 1, int32_t(p.rows)};
    c.placements.push_back(std::move(p));
  };
  const bool tied = config.has("tie_word_embeddings") && config["tie_word_embeddings"].number != 0;
  if (isNeox(config)) {
    const bool bias = !config.has("attention_bias") || config["attention_bias"].number != 0;
    place(Slot::embed, 0, {"gpt_neox.embed_in.weight"});
    for (int i = 0; i < c.spec.layers; i++) {
      const std::string layer = "gpt_neox.layers." + std::to_string(i) + ".";
      place(Slot::norm1Weight, i, {layer + "input_layernorm.weight"});
      place(Slot::norm1Bias, i, {layer + "input_layernorm.bias"});
      place(Slot::norm2Weight, i, {layer + "post_attention_layernorm.weight"});
      place(Slot::norm2Bias, i, {layer + "post_attention_layernorm.bias"});
      place(Slot::qkv, i, {layer + "attention.query_key_value.weight"}, true);
      place(Slot::out, i, {layer + "attention.dense.weight"});
      if (bias) {
        place(Slot::qkvBias, i, {layer + "attention.query_key_value.bias"}, true);
        place(Slot::outBias, i, {layer + "attention.dense.bias"});
      }
      place(Slot::up, i, {layer + "mlp.dense_h_to_4h.weight"});
      place(Slot::upBias, i, {layer + "mlp.dense_h_to_4h.bias"});
      place(Slot::down, i, {layer + "mlp.dense_4h_to_h.weight"});
      place(Slot::downBias, i, {layer + "mlp.dense_4h_to_h.bias"});
    }
    place(Slot::finalWeight, 0, {"gpt_neox.final_layer_norm.weight"});
    place(Slot::finalBias, 0, {"gpt_neox.final_layer_norm.bias"});
    place(Slot::head, 0, {tied ? "gpt_neox.embed_in.weight" : tensors.count("lm_head.weight") ? "lm_head.weight" : "embed_out.weight"});
  } else {
    place(Slot::embed, 0, {"transformer.wte.weight"});
    for (int i = 0; i < c.spec.layers; i++) {
      const std::string layer = "transformer.h." + std::to_string(i) + ".";
      place(Slot::norm1Weight, i, {layer + "ln_1.weight"});
      place(Slot::norm1Bias, i, {layer + "ln_1.bias"});
      place(Slot::qkv, i, {layer + "attn.q_proj.weight", layer + "attn.k_proj.weight", layer + "attn.v_proj.weight"}, true);
      place(Slot::out, i, {layer + "attn.out_proj.weight"});
      place(Slot::up, i, {layer + "mlp.fc_in.weight"});
      place(Slot::upBias, i, {layer + "mlp.fc_in.bias"});
      place(Slot::down, i, {layer + "mlp.fc_out.weight"});
      place(Slot::downBias, i, {layer + "mlp.fc_out.bias"});
    }
    place(Slot::finalWeight, 0, {"transformer.ln_f.weight"});
    place(Slot::finalBias, 0, {"transformer.ln_f.bias"});
    place(Slot::head, 0, {"lm_head.weight"});
    place(Slot::headBias, 0, {"lm_head.bias"});
  }
  return c;
}

Checkpoint fixture(const std::string& name) {
  const std::string folder = "test/fixtures/" + name;
  const Safetensors file(folder + "/model.safetensors");
  return checkpointOf(readJson(folder + "/config.json"), file.path, file.stored());
}

bool isLayered(Slot slot) { return slot != Slot::embed && slot < Slot::finalWeight; }

bool isBias(Slot slot) {
  for (Slot bias : {Slot::norm1Bias, Slot::norm2Bias, Slot::qkvBias, Slot::outBias, Slot::upBias, Slot::downBias, Slot::finalBias, Slot::headBias})
    if (slot == bias) return true;
  return false;
}

SlotShape shapeOf(const Spec& s, Slot slot) {
  const int64_t attention = int64_t(s.heads) * s.headSize, qkv = attention + 2 * int64_t(s.kvHeads) * s.headSize;
  switch (slot) {
    case Slot::embed:
    case Slot::head: return {s.vocab, s.hidden};
    case Slot::headBias: return {s.vocab, 1};
    case Slot::norm2Weight:
    case Slot::norm2Bias: return {s.sharedNorm ? 0 : s.hidden, 1};
    case Slot::qkv: return {qkv, s.hidden};
    case Slot::qkvBias: return {qkv, 1};
    case Slot::out: return {s.hidden, attention};
    case Slot::up: return {s.inner, s.hidden};
    case Slot::upBias: return {s.inner, 1};
    case Slot::down: return {s.hidden, s.inner};
    default: return {s.hidden, 1};
  }
}

OwnModel ownModel(const Spec& spec, DType type, bool biases, const std::function<Floats(Slot, int, size_t)>& fill) {
  OwnModel model{std::make_unique<TempFile>(), {spec, {}, {}}};
  model.checkpoint.files = {model.file->path()};
  for (int i = 0; i < kSlots; i++) {
    const Slot slot = Slot(i);
    const SlotShape shape = shapeOf(spec, slot);
    if (shape.rows == 0 || (isBias(slot) && !biases)) continue;
    for (int layer = 0; layer < (isLayered(slot) ? spec.layers : 1); layer++) {
      const Floats values = fill(slot, layer, size_t(shape.rows * shape.columns));
      std::vector<char> bytes(values.size() * sizeOf(type));
      narrow(values.data(), int64_t(values.size()), type, bytes.data());
      const StoredTensor tensor{0, model.file->size(), type, shape.rows, shape.columns, shape.columns, 1, kSlotNames[i] + std::to_string(layer)};
      model.file->append(bytes.data(), bytes.size());
      model.checkpoint.placements.push_back({slot, layer, shape.rows, shape.columns, {tensor}, {0, 0, 1, 0, 1, int32_t(shape.rows)}});
    }
  }
  return model;
}

OwnModel randomModel(const Spec& spec, DType type, uint64_t seed) {
  Random random(seed);
  return ownModel(spec, type, true, [&](Slot slot, int, size_t count) {
    const bool norm = slot == Slot::norm1Weight || slot == Slot::norm2Weight || slot == Slot::finalWeight;
    const bool vector = norm || isBias(slot);
    const double columns = vector ? 1 : double(shapeOf(spec, slot).columns), scale = slot == Slot::embed ? 1
                                                                                     : vector            ? 0.2
                                                                                                         : 1.5 / std::sqrt(columns);
    Floats values(count);
    for (float& value : values) value = float((norm ? 1 : 0) + scale * random.normal());
    return values;
  });
}

Placement& placementOf(Checkpoint& c, Slot slot, int layer) {
  for (Placement& p : c.placements)
    if (p.slot == slot && p.layer == layer) return p;
  throw std::runtime_error("no such placement");
}

Spec smallSpec() {
  Spec s{};
  s.layers = 2;
  s.hidden = 32;
  s.heads = s.kvHeads = 2;
  s.headSize = 16;
  s.inner = 96;
  s.vocab = 70;
  s.maxPositions = 256;
  s.rotarySize = 8;
  s.rotaryBase = 10000;
  s.parallel = true;
  s.activation = Activation::gelu;
  s.normEps = 1e-5f;
  return s;
}

}  // namespace ewe::test

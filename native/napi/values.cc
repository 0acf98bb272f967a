#include "napi/values.h"

#include <chrono>
#include <cmath>
#include <cstring>

#include "napi/errors.h"

namespace ewe {

namespace {

[[noreturn]] void refuse(Napi::Env env, const char* what, const char* expected) {
  throw toError(env, Status::fail(Kind::internal, "the addon expected %s for %s", expected, what).failure());
}

Napi::Object object(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) refuse(value.Env(), name, "an object");
  return value.As<Napi::Object>();
}

double number(const Napi::Object& o, const char* key, double least, double most) {
  const Napi::Value value = o.Get(key);
  if (!value.IsNumber()) refuse(o.Env(), key, "a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= least && number <= most)) refuse(o.Env(), key, "a number in range");
  return number;
}

int64_t whole(const Napi::Object& o, const char* key, double least, double most) {
  const double value = number(o, key, least, most);
  if (value != std::floor(value)) refuse(o.Env(), key, "a whole number");
  return int64_t(value);
}

int integer(const Napi::Object& o, const char* key, int least = 0, int most = INT32_MAX) { return int(whole(o, key, least, most)); }

bool boolean(const Napi::Object& o, const char* key) {
  const Napi::Value value = o.Get(key);
  if (!value.IsBoolean()) refuse(o.Env(), key, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string text(const Napi::Object& o, const char* key) {
  const Napi::Value value = o.Get(key);
  if (!value.IsString()) refuse(o.Env(), key, "a string");
  return value.As<Napi::String>().Utf8Value();
}

Napi::Array array(const Napi::Object& o, const char* key) {
  const Napi::Value value = o.Get(key);
  if (!value.IsArray()) refuse(o.Env(), key, "an array");
  return value.As<Napi::Array>();
}

template <typename T>
std::vector<T> typed(const Napi::Value& value, napi_typedarray_type type, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) refuse(value.Env(), name, "a typed array of the right type");
  const auto source = value.As<Napi::TypedArrayOf<T>>();
  return std::vector<T>(source.Data(), source.Data() + source.ElementLength());
}

// int8 is what weights may be held in, never what a tensor is stored in.
DType dtype(const Napi::Object& o, const char* key, bool held = false) {
  const std::string name = text(o, key);
  if (name == "float32") return DType::float32;
  if (name == "bfloat16") return DType::bfloat16;
  if (name == "float16") return DType::float16;
  if (name == "int8" && held) return DType::int8;
  refuse(o.Env(), key, "a dtype");
}

Activation activation(const Napi::Object& o, const char* key) {
  const std::string name = text(o, key);
  constexpr std::pair<const char*, Activation> names[] = {{"gelu", Activation::gelu},           {"geluTanh", Activation::geluTanh},
                                                          {"quickGelu", Activation::quickGelu}, {"silu", Activation::silu},
                                                          {"relu", Activation::relu},           {"geluClipped", Activation::geluClipped}};
  for (const auto& [known, value] : names) {
    if (name == known) return value;
  }
  refuse(o.Env(), key, "an activation");
}

StoredTensor tensor(const Napi::Value& value) {
  const Napi::Object o = object(value, "tensor");
  constexpr double most = 9007199254740991.0;
  StoredTensor t;
  t.file = integer(o, "file");
  t.offset = uint64_t(whole(o, "offset", 0, most));
  t.type = dtype(o, "dtype");
  t.rows = whole(o, "rows", 1, most);
  t.columns = whole(o, "columns", 1, most);
  t.rowStride = whole(o, "rowStride", 0, most);
  t.columnStride = whole(o, "columnStride", 0, most);
  t.name = text(o, "name");
  return t;
}

Placement placement(const Napi::Value& value) {
  const Napi::Object o = object(value, "placement");
  Placement p;
  const std::string slot = text(o, "slot");
  int index = -1;
  for (int i = 0; i < kSlots; i++) {
    if (slot == kSlotNames[i]) index = i;
  }
  if (index < 0) refuse(o.Env(), "slot", "a known slot");
  p.slot = Slot(index);
  p.layer = integer(o, "layer");
  p.rows = whole(o, "rows", 1, INT32_MAX);
  p.columns = whole(o, "columns", 1, INT32_MAX);
  const Napi::Array tensors = array(o, "tensors");
  for (uint32_t i = 0; i < tensors.Length(); i++) p.tensors.push_back(tensor(tensors.Get(i)));
  p.blocks = typed<int32_t>(o.Get("blocks"), napi_int32_array, "blocks");
  return p;
}

template <typename T>
Napi::Value array(Napi::Env env, const std::vector<T>& values) {
  auto out = Napi::TypedArrayOf<T>::New(env, values.size());
  if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(T));
  return out;
}

}  // namespace

Spec specOf(const Napi::Value& value) {
  const Napi::Object o = object(value, "spec");
  Spec s{};
  s.layers = integer(o, "layers", 1, 1 << 16);
  s.hidden = integer(o, "hidden", 1, 1 << 20);
  s.heads = integer(o, "heads", 1, 1 << 16);
  s.kvHeads = integer(o, "kvHeads", 1, s.heads);
  s.headSize = integer(o, "headSize", 1, 1 << 16);
  s.inner = integer(o, "inner", 1, 1 << 24);
  s.vocab = integer(o, "vocab", 1, 1 << 26);
  s.maxPositions = integer(o, "maxPositions", 1);
  s.rotarySize = integer(o, "rotarySize", 0, s.headSize);
  s.rotaryBase = number(o, "rotaryBase", 0, 1e18);
  s.parallel = boolean(o, "parallel");
  s.sharedNorm = boolean(o, "sharedNorm");
  s.activation = activation(o, "activation");
  s.normEps = float(number(o, "normEps", 0, 1));
  s.clipQkv = float(number(o, "clipQkv", 0, 1e18));
  if (s.heads % s.kvHeads != 0 || s.rotarySize % 2 != 0) refuse(o.Env(), "spec", "heads that divide and an even rotary size");
  if (int64_t(s.heads) * s.headSize > 1 << 20) refuse(o.Env(), "spec", "at most 1048576 query components");
  return s;
}

Checkpoint checkpointOf(const Napi::Value& value) {
  const Napi::Object o = object(value, "checkpoint");
  Checkpoint c;
  c.spec = specOf(o.Get("spec"));
  const Napi::Array files = array(o, "files");
  for (uint32_t i = 0; i < files.Length(); i++) {
    const Napi::Value file = files.Get(i);
    if (!file.IsString()) refuse(o.Env(), "files", "paths");
    c.files.push_back(file.As<Napi::String>().Utf8Value());
  }
  const Napi::Array placements = array(o, "placements");
  for (uint32_t i = 0; i < placements.Length(); i++) c.placements.push_back(placement(placements.Get(i)));
  return c;
}

LoadOptions loadOptionsOf(const Napi::Value& value) {
  const Napi::Object o = object(value, "options");
  LoadOptions l;
  l.device = text(o, "device");
  l.instructionSet = text(o, "instructionSet");
  l.threads = integer(o, "threads", 0, 4096);
  l.engine.weights = dtype(o, "weights", true);
  l.engine.maxContext = integer(o, "maxContext", 1, 1 << 24);
  l.engine.maxBatch = integer(o, "maxBatch", 1, 1 << 16);
  l.engine.pageSize = integer(o, "pageSize", 16, 1024);
  l.engine.pages = integer(o, "pages", 0, 1 << 24);
  l.engine.stepRows = integer(o, "stepRows", 1, 1 << 16);
  l.engine.maxQueue = integer(o, "maxQueue", 1);
  l.engine.prefixCache = boolean(o, "prefixCache");
  l.engine.reserve = boolean(o, "reserve");
  if (l.engine.pageSize % 16 != 0) refuse(o.Env(), "pageSize", "a multiple of 16");
  return l;
}

std::vector<int> tokensOf(const Napi::Value& value, const Spec& spec, int maxContext) {
  std::vector<int> tokens = typed<int32_t>(value, napi_int32_array, "tokens");
  if (tokens.empty() || tokens.size() > size_t(maxContext)) refuse(value.Env(), "tokens", "at least one and at most a context of ids");
  for (int token : tokens) {
    if (token < 0 || token >= spec.vocab) refuse(value.Env(), "tokens", "ids of the vocabulary");
  }
  return tokens;
}

Request requestOf(const Napi::Value& value, const Spec& spec, const EngineOptions& options) {
  const Napi::Object o = object(value, "request");
  Request r;
  r.tokens = tokensOf(o.Get("tokens"), spec, options.maxContext);
  r.maxNewTokens = integer(o, "maxNewTokens", 1, options.maxContext - int(r.tokens.size()));
  r.n = integer(o, "n", 1, 1 << 16);
  r.temperature = float(number(o, "temperature", 0, 1e30));
  r.topK = integer(o, "topK");
  r.topP = float(number(o, "topP", 0, 1));
  r.minP = float(number(o, "minP", 0, 1));
  r.repetitionPenalty = float(number(o, "repetitionPenalty", 1e-30, 1e30));
  r.presencePenalty = float(number(o, "presencePenalty", -1e6, 1e6));
  r.frequencyPenalty = float(number(o, "frequencyPenalty", -1e6, 1e6));
  const std::vector<int> biased = typed<int32_t>(o.Get("biasedIds"), napi_int32_array, "biasedIds");
  const std::vector<float> biases = typed<float>(o.Get("biases"), napi_float32_array, "biases");
  if (biased.size() != biases.size() || biased.size() > size_t(kMostBiases)) refuse(o.Env(), "biases", "at most 1024, one for each id");
  for (size_t i = 0; i < biased.size(); i++) {
    const bool rising = biased[i] >= 0 && biased[i] < spec.vocab && (i == 0 || biased[i] > biased[i - 1]);
    if (!rising || !(biases[i] >= -1e6f && biases[i] <= 1e6f)) refuse(o.Env(), "biasedIds", "rising ids of the vocabulary with finite biases");
    r.logitBias.push_back({biased[i], biases[i]});
  }
  const Napi::Value seed = o.Get("seed");
  bool lossless = false;
  if (!seed.IsBigInt()) refuse(o.Env(), "seed", "a bigint");
  r.seed = seed.As<Napi::BigInt>().Uint64Value(&lossless);
  r.endIds = typed<int32_t>(o.Get("endIds"), napi_int32_array, "endIds");
  const Napi::Array stop = array(o, "stop");
  for (uint32_t i = 0; i < stop.Length(); i++) {
    const Napi::Value one = stop.Get(i);
    if (!one.IsString()) refuse(o.Env(), "stop", "strings");
    r.stop.push_back(one.As<Napi::String>().Utf8Value());
    if (r.stop.back().empty()) refuse(o.Env(), "stop", "strings that are not empty");
  }
  r.logprobs = integer(o, "logprobs", -1, kTopLogprobs);
  if (r.logprobs > spec.vocab) refuse(o.Env(), "logprobs", "no more than the vocabulary");
  r.keepSpecial = boolean(o, "keepSpecial");
  r.priority = int(whole(o, "priority", -(1 << 30), 1 << 30));
  // Milliseconds from now become a time of the steady clock.
  const double wait = number(o, "timeout", 0, 1e12);
  r.deadline = wait > 0 ? std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count() +
                              int64_t(wait * 1e6)
                        : 0;
  return r;
}

TextTable textTableOf(const Napi::Value& bytes, const Napi::Value& ends, const Napi::Value& special) {
  const std::vector<uint8_t> joined = typed<uint8_t>(bytes, napi_uint8_array, "bytes");
  TextTable table;
  throwIf(bytes.Env(), TextTable::make(std::string(joined.begin(), joined.end()), typed<uint32_t>(ends, napi_uint32_array, "ends"),
                                       typed<uint8_t>(special, napi_uint8_array, "special"), &table));
  return table;
}

Napi::Object layoutObject(Napi::Env env, const Layout& l) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("weights", double(l.matrices));
  o.Set("embedding", double(l.embedding));
  o.Set("vectors", double(l.vectors));
  o.Set("cache", double(l.cache));
  o.Set("activations", double(l.x + l.a + l.q + l.wide));
  o.Set("logits", double(l.logits));
  o.Set("rotary", double(l.rotary));
  o.Set("step", double(l.step));
  o.Set("scratch", double(l.scratch));
  o.Set("total", double(l.total()));
  return o;
}

Napi::Object eventObject(Napi::Env env, const Event& event) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("request", event.request);
  o.Set("sample", event.sample);
  if (event.token >= 0) o.Set("token", event.token);
  o.Set("text", event.text);
  if (event.hasLogprob) {
    o.Set("logprob", double(event.logprob));
    if (!event.topTokens.empty()) {
      o.Set("topTokens", array(env, event.topTokens));
      o.Set("topLogprobs", array(env, event.topLogprobs));
    }
  }
  constexpr const char* names[] = {"", "stop", "length", "cancelled", "error"};
  if (event.finish != Finish::none) o.Set("finish", names[int(event.finish)]);
  if (event.stopToken >= 0) o.Set("stopToken", event.stopToken);
  if (event.stopString >= 0) o.Set("stopString", event.stopString);
  if (event.failure) o.Set("error", toError(env, *event.failure).Value());
  const auto between = [&](const char* name, int64_t from, int64_t to) {
    if (from != 0 && to != 0) o.Set(name, double(to - from) / 1e6);
  };
  if (event.times.started != 0 && event.times.ended != 0) o.Set("reusedTokens", event.reused);
  between("queueTime", event.times.asked, event.times.started);
  between("prefillTime", event.times.started, event.times.answered);
  between("decodeTime", event.times.answered, event.times.ended);
  return o;
}

}  // namespace ewe

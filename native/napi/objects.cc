#include "napi/objects.h"

#include <chrono>
#include <cstring>

#include "napi/devices.h"
#include "napi/errors.h"
#include "napi/values.h"

namespace ewe {

Napi::Function EngineObject::define(Napi::Env env) {
  return DefineClass(env, "Engine",
                     {
                         InstanceMethod("load", &EngineObject::load),
                         InstanceMethod("abortLoad", &EngineObject::abortLoad),
                         InstanceMethod("setText", &EngineObject::setText),
                         InstanceMethod("onEvents", &EngineObject::onEvents),
                         InstanceMethod("submit", &EngineObject::submit),
                         InstanceMethod("cancel", &EngineObject::cancel),
                         InstanceMethod("score", &EngineObject::score),
                         InstanceMethod("logits", &EngineObject::logits),
                         InstanceMethod("stats", &EngineObject::stats),
                         InstanceMethod("dispose", &EngineObject::dispose),
                         InstanceMethod("setActive", &EngineObject::setActive),
                     });
}

EngineObject::EngineObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<EngineObject>(info), addon_(info.Env().GetInstanceData<AddonData>()), bridge_(Bridge::create(info.Env())) {
  addon_->engines.insert(this);
}

EngineObject::~EngineObject() {
  if (!addon_) return;
  addon_->engines.erase(this);
  accountMemory(Env(), 0);
  shutDown();
}

void EngineObject::shutDown() {
  addon_ = nullptr;
  bridge_->close();
  if (engine_) engine_->stop();
  if (closing_.joinable()) closing_.join();
  engine_.reset();
}

Engine& EngineObject::engine(Napi::Env env) const {
  // While a dispose() is under way the loop may have ended: nobody would serve what is queued now.
  if (!engine_ || closing_.joinable()) throw toError(env, Status::fail(Kind::disposed, "the model is not loaded or was disposed of").failure());
  return *engine_;
}

int EngineObject::promise(Napi::Env env, Napi::Value& out) {
  auto [at, inserted] = promises_.emplace(nextPromise_++, Napi::Promise::Deferred::New(env));
  out = at->second.Promise();
  return at->first;
}

Napi::Promise::Deferred EngineObject::settle(int id) {
  const auto at = promises_.find(id);
  const Napi::Promise::Deferred deferred = at->second;
  promises_.erase(at);
  return deferred;
}

void EngineObject::settle(int id, const Failure& failure) { settle(id).Reject(toError(Env(), failure).Value()); }

// V8 learns how much memory hangs on this small object, so that it collects forgotten models in time.
void EngineObject::accountMemory(Napi::Env env, int64_t bytes) {
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes - accounted_);
  accounted_ = bytes;
}

Napi::Value EngineObject::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (engine_) throw toError(env, Status::fail(Kind::internal, "an engine loads once").failure());
  Checkpoint checkpoint = checkpointOf(info[0]);
  const LoadOptions options = loadOptionsOf(info[1]);
  Device device;
  throwIf(env, makeDevice(options.device, options.threads, options.instructionSet, device));
  if (!device.ops->multiplies(options.engine.weights)) {
    throw toError(env, Status::fail(Kind::internal, "device '%s' does not multiply weights of this dtype", options.device.c_str()).failure());
  }
  spec_ = checkpoint.spec;
  options_ = options.engine;
  if (info[2].IsFunction()) progress_ = Napi::Persistent(info[2].As<Napi::Function>());
  Napi::Value out;
  const int id = promise(env, out);
  engine_ = std::make_unique<Engine>(std::move(device.threads), std::move(device.ops));

  Engine::Listener listener;
  listener.events = [this](std::vector<Event> events) { report(std::move(events)); };
  auto last = std::make_shared<std::chrono::steady_clock::time_point>();
  listener.progress = [this, last](uint64_t done, uint64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (done < total && now - *last < std::chrono::milliseconds(20)) return;
    *last = now;
    bridge_->post([this, done, total](Napi::Env env) {
      if (!progress_.IsEmpty()) progress_.Call({Napi::Number::New(env, double(done)), Napi::Number::New(env, double(total))});
    });
  };
  listener.loaded = [this, id](Status status) {
    auto result = std::make_shared<Status>(std::move(status));
    bridge_->post([this, id, result](Napi::Env env) {
      progress_.Reset();
      if (!result->ok()) return settle(id, result->failure());
      if (engine_) accountMemory(env, int64_t(engine_->layout().total()));
      settle(id).Resolve(env.Undefined());
    });
  };
  engine_->start(std::move(checkpoint), options.engine, std::move(listener));
  return out;
}

void EngineObject::abortLoad(const Napi::CallbackInfo&) {
  if (engine_) engine_->stop();
}

void EngineObject::setText(const Napi::CallbackInfo& info) { engine(info.Env()).setText(textTableOf(info[0], info[1], info[2])); }

void EngineObject::onEvents(const Napi::CallbackInfo& info) { events_ = Napi::Persistent(info[0].As<Napi::Function>()); }

void EngineObject::report(std::vector<Event> events) {
  auto shared = std::make_shared<std::vector<Event>>(std::move(events));
  bridge_->post([this, shared](Napi::Env env) {
    if (events_.IsEmpty()) return;
    Napi::Array list = Napi::Array::New(env, shared->size());
    for (size_t i = 0; i < shared->size(); i++) list.Set(uint32_t(i), eventObject(env, (*shared)[i]));
    events_.Call({list});
  });
}

Napi::Value EngineObject::submit(const Napi::CallbackInfo& info) {
  int id = 0;
  throwIf(info.Env(), engine(info.Env()).submit(requestOf(info[0], spec_, options_), &id));
  return Napi::Number::New(info.Env(), id);
}

void EngineObject::cancel(const Napi::CallbackInfo& info) {
  if (engine_) engine_->cancel(info[0].As<Napi::Number>().Int32Value());
}

template <typename T>
static Napi::Value typedArray(Napi::Env env, const std::vector<T>& values) {
  auto out = Napi::TypedArrayOf<T>::New(env, values.size());
  if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(T));
  return out;
}

// The promise, and the number by which what it waits for can be cancelled. What is refused rejects.
template <typename Submit>
Napi::Value EngineObject::numbered(Napi::Env env, Napi::Value promise, int id, Submit submit) {
  int request = 0;
  Status queued = submit(&request);
  if (!queued.ok()) settle(id, queued.failure());
  Napi::Object out = Napi::Object::New(env);
  out.Set("request", request);
  out.Set("result", promise);
  return out;
}

Napi::Value EngineObject::score(const Napi::CallbackInfo& info) {
  Engine& engine = this->engine(info.Env());
  Score score;
  score.tokens = tokensOf(info[0], spec_, options_.maxContext);
  score.top = info[1].As<Napi::Number>().Int32Value();
  if (score.top < 0 || score.top > kTopLogprobs || score.top > spec_.vocab) {
    throw toError(info.Env(), Status::fail(Kind::internal, "%d best log-probabilities of at most %d", score.top, kTopLogprobs).failure());
  }
  Napi::Value out;
  const int id = promise(info.Env(), out);
  score.done = [this, id](Status status, Score::Result result) {
    auto shared = std::make_shared<std::pair<Status, Score::Result>>(std::move(status), std::move(result));
    bridge_->post([this, id, shared](Napi::Env env) {
      if (!shared->first.ok()) return settle(id, shared->first.failure());
      Napi::Object object = Napi::Object::New(env);
      object.Set("logprobs", typedArray(env, shared->second.logprobs));
      object.Set("topTokens", typedArray(env, shared->second.topTokens));
      object.Set("topLogprobs", typedArray(env, shared->second.topLogprobs));
      settle(id).Resolve(object);
    });
  };
  return numbered(info.Env(), out, id, [&](int* request) { return engine.submit(std::move(score), request); });
}

Napi::Value EngineObject::logits(const Napi::CallbackInfo& info) {
  Engine& engine = this->engine(info.Env());
  LogitsOf logits;
  logits.tokens = tokensOf(info[0], spec_, options_.maxContext);
  Napi::Value out;
  const int id = promise(info.Env(), out);
  logits.done = [this, id](Status status, std::vector<float> values) {
    auto shared = std::make_shared<std::pair<Status, std::vector<float>>>(std::move(status), std::move(values));
    bridge_->post([this, id, shared](Napi::Env env) {
      if (!shared->first.ok()) return settle(id, shared->first.failure());
      settle(id).Resolve(typedArray(env, shared->second));
    });
  };
  return numbered(info.Env(), out, id, [&](int* request) { return engine.submit(std::move(logits), request); });
}

Napi::Value EngineObject::stats(const Napi::CallbackInfo& info) {
  Engine& engine = this->engine(info.Env());
  const EngineStats stats = engine.stats();
  Napi::Object o = Napi::Object::New(info.Env());
  o.Set("memory", layoutObject(info.Env(), engine.layout()));
  o.Set("pagesUsed", stats.pagesUsed);
  o.Set("pagesCached", stats.pagesCached);
  o.Set("pages", stats.pages);
  o.Set("steps", double(stats.steps));
  o.Set("promptTokens", double(stats.promptTokens));
  o.Set("reusedTokens", double(stats.reusedTokens));
  o.Set("generatedTokens", double(stats.generatedTokens));
  o.Set("preempted", double(stats.preempted));
  o.Set("busySeconds", double(stats.busyTime) * 1e-9);
  o.Set("deviceSeconds", double(stats.workTime) * 1e-9);
  o.Set("finished", double(stats.finished));
  o.Set("cancelled", double(stats.cancelled));
  o.Set("failed", double(stats.failed));
  o.Set("queued", stats.queued);
  o.Set("running", stats.running);
  o.Set("rows", double(stats.rows));
  Napi::Array steps = Napi::Array::New(info.Env(), stats.stepsByRows.size());
  for (uint32_t i = 0; i < steps.Length(); i++) steps.Set(i, double(stats.stepsByRows[i]));
  o.Set("stepsByRows", steps);
  return o;
}

// The loop ends after the layer it is in; a thread of its own waits for that, so that JavaScript does not.
Napi::Value EngineObject::dispose(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Value out;
  const int id = promise(env, out);
  if (!engine_ || closing_.joinable()) {
    settle(id).Resolve(env.Undefined());
    return out;
  }
  engine_->stop();
  closing_ = std::thread([this, id] {
    engine_->join();
    bridge_->post([this, id](Napi::Env env) {
      closing_.join();
      engine_.reset();
      accountMemory(env, 0);
      settle(id).Resolve(env.Undefined());
    });
  });
  return out;
}

void EngineObject::setActive(const Napi::CallbackInfo& info) { bridge_->setActive(info.Env(), info[0].ToBoolean()); }

}  // namespace ewe

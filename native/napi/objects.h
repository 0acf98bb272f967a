// The Engine class of JavaScript: an engine and the promises that wait for it.
#pragma once
#include <napi.h>

#include <map>
#include <memory>
#include <set>

#include "engine/loop.h"
#include "napi/bridge.h"

namespace ewe {

struct AddonData;

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit EngineObject(const Napi::CallbackInfo& info);
  ~EngineObject() override;

  // Ends the engine's thread, whatever it is doing, and forgets the environment. For the environment's cleanup.
  void shutDown();

 private:
  Napi::Value load(const Napi::CallbackInfo& info);
  void abortLoad(const Napi::CallbackInfo& info);
  void setText(const Napi::CallbackInfo& info);
  void onEvents(const Napi::CallbackInfo& info);
  Napi::Value submit(const Napi::CallbackInfo& info);
  void cancel(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  Napi::Value logits(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void setActive(const Napi::CallbackInfo& info);

  Engine& engine(Napi::Env env) const;  // throws Kind::disposed when there is none
  // A promise that only the JavaScript thread touches; engine threads know its number.
  template <typename Submit>
  Napi::Value numbered(Napi::Env env, Napi::Value promise, int id, Submit submit);
  int promise(Napi::Env env, Napi::Value& out);
  Napi::Promise::Deferred settle(int id);
  void settle(int id, const Failure& failure);
  void report(std::vector<Event> events);
  void accountMemory(Napi::Env env, int64_t bytes);

  AddonData* addon_;  // null once shut down
  std::shared_ptr<Bridge> bridge_;
  std::unique_ptr<Engine> engine_;
  Napi::FunctionReference events_, progress_;
  std::map<int, Napi::Promise::Deferred> promises_;
  int nextPromise_ = 1;
  Spec spec_{};
  EngineOptions options_{};
  int64_t accounted_ = 0;
  std::thread closing_;
};

// Per environment: the live engines, which the one cleanup hook ends.
struct AddonData {
  std::set<EngineObject*> engines;
};

}  // namespace ewe

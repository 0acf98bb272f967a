// From the engine's thread to the event loop: closures run there in the order they were posted, all that are waiting in one crossing.
#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace ewe {

class Bridge : public std::enable_shared_from_this<Bridge> {
 public:
  using Task = std::function<void(Napi::Env)>;

  static std::shared_ptr<Bridge> create(Napi::Env env);
  // From any thread. Dropped once the environment is going away.
  void post(Task task);
  // Whether the bridge keeps the event loop alive. On the JavaScript thread.
  void setActive(Napi::Env env, bool active);
  // No task runs after this. On the JavaScript thread.
  void close();

 private:
  void putBack(std::vector<Task> tasks);
  void call();
  static void run(napi_env env, napi_value, void* context, void*);
  static void finalize(napi_env env, void* data, void*);

  std::mutex mutex_;
  std::vector<Task> tasks_;
  napi_threadsafe_function function_ = nullptr;
  bool closed_ = false;
};

}  // namespace ewe

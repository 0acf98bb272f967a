#include "napi/bridge.h"

namespace ewe {

std::shared_ptr<Bridge> Bridge::create(Napi::Env env) {
  auto bridge = std::make_shared<Bridge>();
  // The function holds a share of the bridge until Node has finished with it, which may be after the engine is gone.
  auto* share = new std::shared_ptr<Bridge>(bridge);
  napi_value name = Napi::String::New(env, "ewe");
  const napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, share, finalize, share, run, &bridge->function_);
  if (status != napi_ok) {
    delete share;
    throw Napi::Error::New(env, "cannot create a thread-safe function");
  }
  napi_unref_threadsafe_function(env, bridge->function_);
  return bridge;
}

void Bridge::post(Task task) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  tasks_.push_back(std::move(task));
  // One call is on its way while there are tasks: it takes them all.
  if (tasks_.size() == 1) call();
}

void Bridge::setActive(Napi::Env env, bool active) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  if (active) {
    napi_ref_threadsafe_function(env, function_);
  } else {
    napi_unref_threadsafe_function(env, function_);
  }
}

void Bridge::close() {
  std::vector<Task> dropped;
  std::lock_guard<std::mutex> lock(mutex_);
  dropped.swap(tasks_);
  if (closed_) return;
  closed_ = true;
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
}

void Bridge::run(napi_env env, napi_value, void* context, void*) {
  // Node empties its queue so, after finalize(): the context is gone.
  if (env == nullptr) return;
  std::shared_ptr<Bridge> bridge = *static_cast<std::shared_ptr<Bridge>*>(context);
  std::vector<Task> tasks;
  {
    std::lock_guard<std::mutex> lock(bridge->mutex_);
    tasks.swap(bridge->tasks_);
  }
  Napi::HandleScope scope(env);
  for (size_t i = 0; i < tasks.size(); i++) {
    try {
      tasks[i](env);
    } catch (const Napi::Error& error) {
      bridge->putBack({std::make_move_iterator(tasks.begin() + long(i) + 1), std::make_move_iterator(tasks.end())});
      // An uncaught exception of the event loop; of a worker that is being ended, which runs no more JavaScript, nothing.
      error.ThrowAsJavaScriptException();
      return;
    }
  }
}

void Bridge::putBack(std::vector<Task> tasks) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || tasks.empty()) return;
  const bool called = !tasks_.empty();
  tasks_.insert(tasks_.begin(), std::make_move_iterator(tasks.begin()), std::make_move_iterator(tasks.end()));
  if (!called) call();
}

// After napi_closing the function may not be touched again.
void Bridge::call() {
  if (napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking) == napi_ok) return;
  closed_ = true;
  tasks_.clear();
}

void Bridge::finalize(napi_env, void* data, void*) {
  auto* share = static_cast<std::shared_ptr<Bridge>*>(data);
  {
    std::lock_guard<std::mutex> lock((*share)->mutex_);
    (*share)->closed_ = true;
    (*share)->tasks_.clear();
  }
  delete share;
}

}  // namespace ewe

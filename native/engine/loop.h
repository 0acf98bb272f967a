// The engine: one thread that owns a model on a device and serves requests from a queue. Requests come in by submit(); what they produce goes out
// through the listener, once a step. The neighbours, in the order of a request's way: request.h (what is asked), pages.h (room in the cache),
// runner.h (a step on the device), text.h (ids to text).
#pragma once
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

#include "engine/pages.h"
#include "engine/request.h"
#include "engine/runner.h"

namespace ewe {

struct EngineStats {
  int64_t steps = 0, promptTokens = 0, generatedTokens = 0;
  int pagesUsed = 0, pages = 0, queued = 0, running = 0;
};

class Engine {
 public:
  // Called on the loop's thread.
  struct Listener {
    std::function<void(std::vector<Event>)> events;
    std::function<void(uint64_t done, uint64_t total)> progress;
    std::function<void(Status)> loaded;
  };

  Engine(std::unique_ptr<Threads> threads, std::unique_ptr<Ops> ops);
  ~Engine();  // stops first

  // Starts the thread, which loads and then serves.
  void start(Checkpoint checkpoint, EngineOptions options, Listener listener);
  // Makes the loop end after the layer it is in. Idempotent; does not wait.
  void stop();
  // Waits for the thread, and gives all memory back.
  void join();

  void setText(TextTable table);
  int submit(Request request);
  void cancel(int request);
  void submit(Score score);
  void submit(LogitsOf logits);
  EngineStats stats() const;
  // Valid after loading.
  Layout layout() const;

 private:
  struct Job {
    int id = 0;
    std::unique_ptr<Request> request;
    std::unique_ptr<Score> score;
    std::unique_ptr<LogitsOf> logits;
  };

  int enqueue(Job job);
  void run(Checkpoint checkpoint);
  void serve(Job& job);
  void abandon(Job& job, Status why);
  Status generate(int id, const Request& request);
  Status score(const Score& score, Score::Result& result);
  Status allLogits(const LogitsOf& logits, std::vector<float>& result);
  // Runs a prompt through the model in steps of at most stepRows; after each, `after(first, count)` sees its rows.
  Status prefill(const std::vector<int>& tokens, const std::vector<int>& pages, int job, const std::function<Status(int first, int count)>& after);
  Status takePages(int tokens, std::vector<int>& pages);
  void releasePages(std::vector<int>& pages);
  bool cancelled(int job) const;
  void count(int64_t EngineStats::*what, int64_t by);

  std::unique_ptr<Threads> threads_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Pages> pages_;
  EngineOptions options_{};
  Listener listener_;
  TextTable text_;
  std::thread thread_;
  std::atomic<bool> stop_{false};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;
  std::set<int> cancelled_;
  EngineStats stats_;
  Layout layout_{};
  int nextId_ = 1, current_ = 0;
};

}  // namespace ewe

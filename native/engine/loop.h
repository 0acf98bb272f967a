// The engine: one thread that owns a model on a device and serves many requests at once. Requests come in by submit(); what they produce goes out
// through the listener, once a step. The neighbours, in the order of a request's way: request.h (what is asked), scheduler.h (whose turn it is, with
// pages.h: room in the cache), work.h (a step on the device), generation.h (a request under way), text.h (ids to text).
#pragma once
#include <array>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "engine/work.h"

namespace ewe {

struct EngineStats {
  int64_t steps = 0, promptTokens = 0, generatedTokens = 0;  // rows of prompts that were computed; tokens that were drawn
  int64_t reusedTokens = 0;                                  // tokens found in the index instead of computed
  int64_t preempted = 0;                                     // sequences that were sent back for want of pages
  int64_t finished = 0, cancelled = 0, failed = 0;           // requests
  int64_t busyTime = 0, workTime = 0;                        // nanoseconds: of steps with all around them, and of those on the device
  int pagesUsed = 0, pagesCached = 0, pages = 0;
  int queued = 0, running = 0;  // sequences that wait, and that run
  int64_t rows = 0;             // tokens that were computed, of prompts and answers, in all steps
  // Steps by their rows: entry i counts those with more than 2^(i-1) and at most 2^i.
  std::array<int64_t, 32> stepsByRows{};
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
  // Refuses what does not fit the cache, and more than the queue takes.
  Status submit(Request request, int* id);
  Status submit(Score score, int* id);
  Status submit(LogitsOf logits, int* id);
  void cancel(int request);
  EngineStats stats() const;
  // Valid after loading.
  Layout layout() const;

 private:
  struct Incoming {
    int id;
    int64_t asked;                           // when
    std::unique_ptr<Request> request;        // or
    std::unique_ptr<Evaluation> evaluation;  // of a score or logits
  };

  Status enqueue(int tokens, Incoming incoming, int* id);
  void run(Checkpoint checkpoint);
  bool collect();
  void take(Incoming& incoming);
  void expire();
  void step();
  void begin(Sequence& sequence, int64_t now);
  void count(const StepPlan& plan);
  void settle(std::vector<Event> events);
  void end(int id, Finish why, const Status* status, std::vector<Event>& events);
  void forget(Generation& generation);
  void abandonAll();

  std::unique_ptr<Threads> threads_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Pages> pages_;
  std::unique_ptr<Scheduler> scheduler_;
  EngineOptions options_{};
  Listener listener_;
  std::thread thread_;
  std::atomic<bool> stop_{false};

  // The loop's own: what is under way.
  std::map<int, std::unique_ptr<Generation>> generations_;
  std::map<int, std::unique_ptr<Evaluation>> evaluations_;
  std::set<std::pair<int64_t, int>> deadlines_;
  EngineStats now_;
  int unbegun_ = 0;  // requests that have had no place yet
  int64_t woke_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  TextTable text_;  // set before the first request and never again
  std::vector<Incoming> queue_;
  std::set<int> cancelled_;
  EngineStats stats_;
  Layout layout_{};
  int nextId_ = 1;
  int waiting_ = 0;  // requests that the loop has taken and that have had no place yet
};

}  // namespace ewe

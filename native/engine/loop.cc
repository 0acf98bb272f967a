#include "engine/loop.h"

#include <algorithm>
#include <chrono>

namespace ewe {

static Status disposed() { return Status::fail(Kind::disposed, "the model was disposed of"); }

static int64_t clockNow() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Engine::Engine(std::unique_ptr<Threads> threads, std::unique_ptr<Ops> ops) : threads_(std::move(threads)), ops_(std::move(ops)) {}

Engine::~Engine() {
  stop();
  join();
}

void Engine::start(Checkpoint checkpoint, EngineOptions options, Listener listener) {
  options_ = options;
  listener_ = std::move(listener);
  thread_ = std::thread([this, checkpoint = std::move(checkpoint)]() mutable { run(std::move(checkpoint)); });
}

void Engine::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
}

void Engine::join() {
  if (thread_.joinable()) thread_.join();
  runner_.reset();
  ops_.reset();
  threads_.reset();
}

// ---- what comes in

void Engine::setText(TextTable table) {
  std::lock_guard<std::mutex> lock(mutex_);
  text_ = std::move(table);
}

Status Engine::enqueue(int tokens, Incoming incoming, int* id) {
  const int pages = Scheduler::pagesFor(tokens, options_.pageSize);
  if (pages > pageCount(options_)) {
    return Status::fail(Kind::context, "%d tokens need %d pages of the cache, which has %d: ask for less, or load with more memory for it", tokens,
                        pages, pageCount(options_));
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const int waiting = int(queue_.size()) + waiting_;
    if (waiting >= options_.maxQueue)
      return Status::fail(Kind::queue, "the queue of requests is full (%d of %d): try again later", waiting, options_.maxQueue);
    incoming.id = nextId_++;
    *id = incoming.id;
    queue_.push_back(std::move(incoming));
  }
  wake_.notify_all();
  return {};
}

Status Engine::submit(Request request, int* id) {
  const int tokens = int(request.tokens.size()) + request.maxNewTokens - 1;  // the last one that is drawn never enters the cache
  return enqueue(tokens, {0, clockNow(), std::make_unique<Request>(std::move(request)), nullptr}, id);
}

Status Engine::submit(Score score, int* id) {
  auto e = std::make_unique<Evaluation>();
  e->tokens = score.tokens;
  e->score = std::make_unique<Score>(std::move(score));
  const int tokens = int(e->tokens.size());
  return enqueue(tokens, {0, clockNow(), nullptr, std::move(e)}, id);
}

Status Engine::submit(LogitsOf logits, int* id) {
  auto e = std::make_unique<Evaluation>();
  e->tokens = logits.tokens;
  e->logits = std::make_unique<LogitsOf>(std::move(logits));
  const int tokens = int(e->tokens.size());
  return enqueue(tokens, {0, clockNow(), nullptr, std::move(e)}, id);
}

void Engine::cancel(int request) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stop_ || request <= 0 || request >= nextId_) return;
    cancelled_.insert(request);
  }
  wake_.notify_all();
}

EngineStats Engine::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  EngineStats stats = stats_;
  stats.queued += int(queue_.size());
  return stats;
}

Layout Engine::layout() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return layout_;
}

// ---- the loop

void Engine::run(Checkpoint checkpoint) {
  runner_ = std::make_unique<Runner>(*ops_);
  Status loaded = runner_->load(checkpoint, options_, *threads_, listener_.progress, stop_);
  const bool ready = loaded.ok();
  pages_ = std::make_unique<Pages>(pageCount(options_), options_.pageSize);
  scheduler_ = std::make_unique<Scheduler>(*pages_, options_.pageSize, Scheduler::Limits{options_.maxBatch, options_.stepRows, options_.reserve});
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (ready) layout_ = runner_->layout();
    stats_.pages = now_.pages = pages_->count();
  }
  checkpoint = {};
  listener_.loaded(std::move(loaded));
  while (collect()) {
    if (!ready) {
      abandonAll();
    } else {
      step();
      now_.busyTime += clockNow() - woke_;
    }
  }
  abandonAll();
}

// Takes what came in since the last step; waits while there is nothing to do. False when the loop is over.
bool Engine::collect() {
  std::vector<Incoming> incoming;
  std::set<int> cancelled;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [this] { return stop_ || !queue_.empty() || !cancelled_.empty() || scheduler_->running() + scheduler_->waiting() > 0; });
    woke_ = clockNow();
    incoming.swap(queue_);
    cancelled.swap(cancelled_);
    waiting_ += int(incoming.size());
  }
  for (Incoming& one : incoming) take(one);
  if (stop_) return false;
  std::vector<Event> events;
  const Status aborted = Status::fail(Kind::aborted, "cancelled");
  for (const int id : cancelled) end(id, Finish::cancelled, &aborted, events);
  if (!events.empty()) settle(std::move(events));
  expire();
  return true;
}

void Engine::take(Incoming& incoming) {
  unbegun_++;
  if (incoming.request) {
    const uint64_t space = options_.prefixCache ? 0 : uint64_t(incoming.id);
    auto generation = std::make_unique<Generation>(incoming.id, std::move(*incoming.request), text_, space);
    generation->times().asked = incoming.asked;
    if (generation->request().deadline > 0) deadlines_.insert({generation->request().deadline, incoming.id});
    scheduler_->add(generation->samples()[0]);
    generations_[incoming.id] = std::move(generation);
    return;
  }
  Evaluation& e = *incoming.evaluation;
  e.prompt = e.most = int(e.tokens.size());
  e.order = int64_t(incoming.id) << 16;
  e.space = options_.prefixCache ? 0 : uint64_t(incoming.id);
  e.everyRow = true;
  scheduler_->add(e);
  evaluations_[incoming.id] = std::move(incoming.evaluation);
}

void Engine::expire() {
  if (deadlines_.empty() || deadlines_.begin()->first > clockNow()) return;
  std::vector<Event> events;
  const Status late = Status::fail(Kind::deadline, "the request's deadline passed before its answer was complete");
  const int64_t now = clockNow();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const int id = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    end(id, Finish::error, &late, events);
  }
  settle(std::move(events));
}

void Engine::step() {
  if (scheduler_->running() + scheduler_->waiting() == 0) return;
  const StepPlan plan = scheduler_->plan();
  const int64_t began = clockNow();
  for (Sequence* sequence : plan.started) begin(*sequence, began);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_ = unbegun_;  // what has a place now makes room in the queue
  }
  std::vector<Draw> draws;
  Status status = plan.shares.empty() ? Status::fail(Kind::internal, "no sequence of %d can go on", scheduler_->running() + scheduler_->waiting())
                                      : work(plan, *runner_, stop_, draws);
  const int64_t drawn = clockNow();
  now_.workTime += drawn - began;
  now_.steps++;
  now_.preempted += plan.preempted;
  std::vector<Event> events;
  if (!status.ok()) {
    // Nothing of the step counts. Who took part hears of it; the others go on.
    scheduler_->failed();
    if (stop_) return;
    std::set<int> lost;
    for (const Share& share : plan.shares) lost.insert(int(share.sequence->order >> 16));
    if (plan.shares.empty()) {
      for (const auto& [id, generation] : generations_) lost.insert(id);
      for (const auto& [id, evaluation] : evaluations_) lost.insert(id);
    }
    for (const int id : lost) end(id, Finish::error, &status, events);
    return settle(std::move(events));
  }
  scheduler_->done();
  count(plan);
  std::vector<int> complete;
  for (const Share& share : plan.shares) {
    if (share.sequence->everyRow && share.last) complete.push_back(int(share.sequence->order >> 16));
  }
  for (const int id : complete) end(id, Finish::none, nullptr, events);
  for (Draw& draw : draws) {
    Generation::Sample& sample = *draw.sample;
    if (sample.done) continue;  // the request failed with a draw before this one
    const bool begins = !sample.begun && sample.index > 0;
    int64_t& answered = sample.generation->times().answered;
    if (answered == 0) answered = drawn;
    Status accepted = sample.generation->accept(sample, draw.drawn, events);
    if (accepted.ok() && !sample.done) accepted = remember(sample, *runner_);
    if (!accepted.ok()) {
      end(sample.generation->id(), Finish::error, &accepted, events);
      continue;
    }
    now_.generatedTokens++;
    if (sample.done && !begins) {
      scheduler_->remove(sample);
    } else if (begins && !sample.done) {
      scheduler_->add(sample);
    }
  }
  settle(std::move(events));
}

// Of a request whose sequence was sent back, or another of its samples, this is known already.
void Engine::begin(Sequence& sequence, int64_t now) {
  if (sequence.everyRow) {
    bool& begun = static_cast<Evaluation&>(sequence).begun;
    unbegun_ -= !begun;
    begun = true;
    return;
  }
  Generation& generation = *static_cast<Generation::Sample&>(sequence).generation;
  if (generation.times().started != 0) return;
  generation.times().started = now;
  generation.reused() = sequence.computed;
  unbegun_--;
}

void Engine::count(const StepPlan& plan) {
  now_.reusedTokens += plan.reused;
  now_.rows += plan.rows;
  size_t size = 0;
  while ((1 << size) < plan.rows) size++;
  now_.stepsByRows[size]++;
  for (const Share& share : plan.shares) {
    if (share.prompt) now_.promptTokens += share.count;
  }
}

// ---- ends

// Takes part no further. Its pages are free before the last word goes out: who hears of the end may count on them.
void Engine::forget(Generation& generation) {
  for (Generation::Sample& sample : generation.samples()) {
    if (!sample.done && (sample.begun || sample.index == 0)) scheduler_->remove(sample);
  }
}

// Of a request that is gone already nothing happens.
void Engine::end(int id, Finish why, const Status* status, std::vector<Event>& events) {
  const auto evaluation = evaluations_.find(id);
  if (evaluation != evaluations_.end()) {
    scheduler_->remove(*evaluation->second);
    unbegun_ -= !evaluation->second->begun;
    const Failure* failure = status && !status->ok() ? &status->failure() : nullptr;
    evaluation->second->finish(failure ? Status::fail(failure->kind, "%s", failure->message) : Status());
    evaluations_.erase(evaluation);
    return;
  }
  const auto generation = generations_.find(id);
  if (generation == generations_.end() || generation->second->done()) return;
  forget(*generation->second);
  unbegun_ -= generation->second->times().started == 0;
  generation->second->finish(why, why == Finish::error ? std::make_shared<Failure>(status->failure()) : nullptr, events);
  if (generation->second->request().deadline > 0) deadlines_.erase({generation->second->request().deadline, id});
}

// Counts, then tells. Requests that are over are forgotten.
void Engine::settle(std::vector<Event> events) {
  const int64_t now = clockNow();
  for (auto each = events.rbegin(); each != events.rend(); ++each) {  // a request's last event first: it brings what is known at the end
    Event& event = *each;
    if (event.finish == Finish::none) continue;
    const auto at = generations_.find(event.request);
    if (at == generations_.end() || !at->second->done()) continue;
    now_.finished += event.finish == Finish::stop || event.finish == Finish::length;
    now_.cancelled += event.finish == Finish::cancelled;
    now_.failed += event.finish == Finish::error;
    if (at->second->request().deadline > 0) deadlines_.erase({at->second->request().deadline, at->first});
    event.times = at->second->times();
    event.times.ended = now;
    event.reused = at->second->reused();
    generations_.erase(at);
  }
  now_.pagesUsed = pages_->used();
  now_.pagesCached = pages_->cached();
  now_.running = scheduler_->running();
  now_.queued = scheduler_->waiting();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stats_ = now_;
    waiting_ = unbegun_;
  }
  if (!events.empty()) listener_.events(std::move(events));
}

// The end of the loop, or a load that failed: all that is under way is told.
void Engine::abandonAll() {
  std::vector<Incoming> incoming;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    incoming.swap(queue_);
  }
  for (Incoming& one : incoming) take(one);
  std::vector<Event> events;
  const Status why = disposed();
  std::vector<int> ids;
  for (const auto& [id, generation] : generations_) ids.push_back(id);
  for (const auto& [id, evaluation] : evaluations_) ids.push_back(id);
  for (const int id : ids) end(id, Finish::cancelled, &why, events);
  settle(std::move(events));
}

}  // namespace ewe

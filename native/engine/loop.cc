#include "engine/loop.h"

#include <algorithm>

#include "engine/generation.h"

namespace ewe {

static Status disposed() { return Status::fail(Kind::disposed, "the model was disposed of"); }

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

void Engine::setText(TextTable table) {
  std::lock_guard<std::mutex> lock(mutex_);
  text_ = std::move(table);
}

int Engine::enqueue(Job job) {
  int id;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    id = job.id = nextId_++;
    queue_.push_back(std::move(job));
  }
  wake_.notify_all();
  return id;
}

int Engine::submit(Request request) {
  Job job;
  job.request = std::make_unique<Request>(std::move(request));
  return enqueue(std::move(job));
}

void Engine::submit(Score score) {
  Job job;
  job.score = std::make_unique<Score>(std::move(score));
  enqueue(std::move(job));
}

void Engine::submit(LogitsOf logits) {
  Job job;
  job.logits = std::make_unique<LogitsOf>(std::move(logits));
  enqueue(std::move(job));
}

void Engine::cancel(int request) {
  std::lock_guard<std::mutex> lock(mutex_);
  const bool known = request == current_ || std::any_of(queue_.begin(), queue_.end(), [&](const Job& job) { return job.id == request; });
  if (known) cancelled_.insert(request);
}

bool Engine::cancelled(int job) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return cancelled_.count(job) > 0;
}

EngineStats Engine::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  EngineStats stats = stats_;
  stats.queued = int(queue_.size());
  return stats;
}

Layout Engine::layout() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return layout_;
}

void Engine::count(int64_t EngineStats::*what, int64_t by) {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.*what += by;
  stats_.pagesUsed = pages_->used();
}

void Engine::run(Checkpoint checkpoint) {
  runner_ = std::make_unique<Runner>(*ops_);
  Status loaded = runner_->load(checkpoint, options_, *threads_, listener_.progress, stop_);
  const bool ready = loaded.ok();
  if (ready) {
    pages_ = std::make_unique<Pages>(pageCount(options_));
    std::lock_guard<std::mutex> lock(mutex_);
    layout_ = runner_->layout();
    stats_.pages = pages_->count();
  }
  checkpoint = {};
  listener_.loaded(std::move(loaded));
  for (;;) {
    Job job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) break;
      job = std::move(queue_.front());
      queue_.pop_front();
      current_ = job.id;
      stats_.running = 1;
    }
    if (stop_ || !ready) {
      abandon(job, disposed());
    } else {
      serve(job);
    }
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_.erase(job.id);
    current_ = 0;
    stats_.running = 0;
    if (pages_) stats_.pagesUsed = pages_->used();
  }
}

void Engine::serve(Job& job) {
  if (job.request) {
    Status status = generate(job.id, *job.request);
    if (!status.ok()) abandon(job, std::move(status));
  } else if (job.score) {
    Score::Result result;
    Status status = score(*job.score, result);
    if (stop_ && !status.ok()) status = disposed();
    job.score->done(std::move(status), std::move(result));
  } else {
    std::vector<float> logits;
    Status status = allLogits(*job.logits, logits);
    if (stop_ && !status.ok()) status = disposed();
    job.logits->done(std::move(status), std::move(logits));
  }
}

// Tells a job that it will not be served: by an event for each sample, or by its callback.
void Engine::abandon(Job& job, Status why) {
  if (job.score) return job.score->done(std::move(why), {});
  if (job.logits) return job.logits->done(std::move(why), {});
  const bool stopped = why.failure().kind == Kind::disposed || why.failure().kind == Kind::aborted;
  auto failure = std::make_shared<Failure>(why.failure());
  std::vector<Event> events;
  for (int i = 0; i < job.request->n; i++) {
    Event event;
    event.request = job.id;
    event.sample = i;
    event.finish = stopped ? Finish::cancelled : Finish::error;
    if (!stopped) event.failure = failure;
    events.push_back(std::move(event));
  }
  listener_.events(std::move(events));
}

Status Engine::takePages(int tokens, std::vector<int>& pages) {
  for (int i = 0; i * options_.pageSize < tokens; i++) {
    const int page = pages_->take();
    if (page < 0) {
      Status full = Status::fail(Kind::internal, "the cache has no page left: %d of %d in use", pages_->used(), pages_->count());
      releasePages(pages);
      return full;
    }
    pages.push_back(page);
  }
  return {};
}

void Engine::releasePages(std::vector<int>& pages) {
  for (int page : pages) pages_->release(page);
  pages.clear();
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.pagesUsed = pages_->used();
}

Status Engine::prefill(const std::vector<int>& tokens, const std::vector<int>& pages, int job, const std::function<Status(int, int)>& after) {
  for (int first = 0; first < int(tokens.size()); first += options_.stepRows) {
    if (cancelled(job)) return Status::fail(Kind::aborted, "cancelled");
    const int rows = std::min(options_.stepRows, int(tokens.size()) - first);
    EWE_TRY(runner_->run({{&tokens[size_t(first)], first, rows, &pages, true}}, stop_));
    count(&EngineStats::steps, 1);
    count(&EngineStats::promptTokens, rows);
    EWE_TRY(after(first, rows));
  }
  return {};
}

Status Engine::generate(int id, const Request& request) {
  TextTable* table;
  {
    // Set before the first request and never again, so reading it without the lock afterwards is safe.
    std::lock_guard<std::mutex> lock(mutex_);
    table = &text_;
  }
  std::vector<int> pages;
  EWE_TRY(takePages(int(request.tokens.size()), pages));
  std::vector<Event> events;
  {
    Generation generation(id, request, *runner_, *pages_, *table, pages);
    const int last = int(request.tokens.size()) - 1;
    Status status =
        prefill(request.tokens, pages, id, [&](int first, int rows) { return first + rows <= last ? Status() : runner_->head({last - first}); });
    if (status.ok()) status = generation.first(events);
    while (status.ok() && !generation.done()) {
      count(&EngineStats::generatedTokens, int64_t(events.size()));
      listener_.events(std::move(events));
      events.clear();
      status = cancelled(id) ? Status::fail(Kind::aborted, "cancelled") : generation.step(stop_, events);
      count(&EngineStats::steps, 1);
    }
    if (!status.ok()) {
      const bool cancelled = status.failure().kind == Kind::aborted;
      generation.finish(cancelled ? Finish::cancelled : Finish::error, cancelled ? nullptr : std::make_shared<Failure>(status.failure()), events);
    }
  }
  // Its pages are free before the last word goes out: who hears of the end may count on them.
  count(&EngineStats::generatedTokens, std::count_if(events.begin(), events.end(), [](const Event& event) { return event.token >= 0; }));
  listener_.events(std::move(events));
  return {};
}

Status Engine::score(const Score& score, Score::Result& result) {
  std::vector<int> pages;
  EWE_TRY(takePages(int(score.tokens.size()), pages));
  const int wanted = int(score.tokens.size()) - 1;
  result.logprobs.resize(size_t(wanted));
  result.topTokens.resize(size_t(wanted) * size_t(score.top));
  result.topLogprobs.resize(size_t(wanted) * size_t(score.top));
  Status status = prefill(score.tokens, pages, -1, [&](int first, int rows) -> Status {
    for (int begin = 0; begin < rows; begin += logitRows(options_)) {
      std::vector<int> logits, targets;
      for (int i = begin; i < std::min(rows, begin + logitRows(options_)) && first + i < wanted; i++) {
        logits.push_back(i);
        targets.push_back(score.tokens[size_t(first + i + 1)]);
      }
      if (logits.empty()) break;
      const size_t at = size_t(first + begin);
      EWE_TRY(runner_->head(logits));
      EWE_TRY(runner_->logProbs(targets, score.top, &result.logprobs[at], result.topTokens.data() + at * size_t(score.top),
                                result.topLogprobs.data() + at * size_t(score.top)));
    }
    return {};
  });
  releasePages(pages);
  return status;
}

Status Engine::allLogits(const LogitsOf& logits, std::vector<float>& result) {
  std::vector<int> pages;
  EWE_TRY(takePages(int(logits.tokens.size()), pages));
  const size_t vocab = size_t(runner_->spec().vocab);
  result.resize(logits.tokens.size() * vocab);
  Status status = prefill(logits.tokens, pages, -1, [&](int first, int rows) -> Status {
    for (int begin = 0; begin < rows; begin += logitRows(options_)) {
      std::vector<int> wanted;
      for (int i = begin; i < std::min(rows, begin + logitRows(options_)); i++) wanted.push_back(i);
      EWE_TRY(runner_->head(wanted));
      EWE_TRY(runner_->logits(int(wanted.size()), &result[size_t(first + begin) * vocab]));
    }
    return {};
  });
  releasePages(pages);
  return status;
}

}  // namespace ewe

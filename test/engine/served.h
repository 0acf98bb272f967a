// An engine over the device of a case: what it answered, and what it did to the device.
#pragma once
#include <chrono>
#include <map>

#include "../model/models.h"
#include "engine/loop.h"

namespace ewe::test {

using Bits = std::map<std::pair<unsigned, unsigned>, Floats>;  // logits by sample and position

// What outlives the engine.
struct Witness {
  std::atomic<int> allocations{0}, held{0}, reserved{0}, steps{0}, layers{0};
  Bits drawn;  // filled by the engine's thread, read when it waits
  bool keepBits = false;
  std::function<Status(int step)> atStep;  // called as a step begins: 1, 2, ...
  std::function<void()> atLayer;
};

struct Device : Borrowed {
  Witness& witness;
  Device(Ops& inner, Witness& witness) : Borrowed(inner), witness(witness) {}
  Status allocate(void** memory, size_t bytes) override {
    witness.allocations++;
    witness.held++;
    return Borrowed::allocate(memory, bytes);
  }
  void release(void* memory) override {
    witness.held--;
    Borrowed::release(memory);
  }
  Status reserve(const Limits& limits) override {
    witness.reserved++;
    return Borrowed::reserve(limits);
  }
  Status embed(const Embed& op) override {
    witness.steps++;
    if (witness.atStep) EWE_TRY(witness.atStep(witness.steps));
    return Borrowed::embed(op);
  }
  Status attend(const Attend& op) override {
    witness.layers++;
    if (witness.atLayer) witness.atLayer();
    return Borrowed::attend(op);
  }
  Status sample(const Sample& op) override {
    if (witness.keepBits) {
      std::vector<Sampling> rows(static_cast<size_t>(op.rows));
      EWE_TRY(download(rows.data(), op.sampling, rows.size() * sizeof(Sampling)));
      for (int i = 0; i < op.rows; i++) {
        Floats logits(static_cast<size_t>(op.vocab));
        EWE_TRY(download(logits.data(), op.logits + i * op.stride, logits.size() * sizeof(float)));
        witness.drawn[{rows[size_t(i)].sample, rows[size_t(i)].position}] = std::move(logits);
      }
    }
    return Borrowed::sample(op);
  }
};

struct Answer {
  Ints tokens, topTokens;
  Floats logprobs, topLogprobs;
  std::string text, failure;
  Finish finish = Finish::none;
  int afterEnd = 0;  // events that came when it was over
};

// An engine over the case's device, and what it reported.
class Served {
 public:
  Witness witness;

  Served(Run& run, const Checkpoint& checkpoint, const EngineOptions& options) {
    engine_ = std::make_unique<Engine>(std::make_unique<Threads>(1), std::make_unique<Device>(run.ops, witness));
    Engine::Listener listener;
    listener.progress = [](uint64_t, uint64_t) {};
    listener.loaded = [this](Status status) {
      std::lock_guard<std::mutex> lock(mutex_);
      loadFailure_ = status.ok() ? "" : status.failure().message;
      loaded_ = true;
      changed_.notify_all();
    };
    listener.events = [this](std::vector<Event> events) {
      std::lock_guard<std::mutex> lock(mutex_);
      for (Event& e : events) {
        Answer& a = answers_[e.request][e.sample];
        if (a.finish != Finish::none) a.afterEnd++;
        if (e.token >= 0) a.tokens.push_back(e.token);
        if (e.hasLogprob) a.logprobs.push_back(e.logprob);
        a.topTokens.insert(a.topTokens.end(), e.topTokens.begin(), e.topTokens.end());
        a.topLogprobs.insert(a.topLogprobs.end(), e.topLogprobs.begin(), e.topLogprobs.end());
        a.text += e.text;
        a.finish = e.finish;
        if (e.failure) a.failure = e.failure->message;
      }
      changed_.notify_all();
    };
    engine_->start(checkpoint, options, std::move(listener));
    wait([this] { return loaded_; });
    std::string bytes;
    std::vector<uint32_t> ends;
    for (int i = 0; i < checkpoint.spec.vocab; i++) {
      bytes += char('0' + i % 64);
      ends.push_back(uint32_t(bytes.size()));
    }
    TextTable table;
    run.check(TextTable::make(bytes, ends, std::vector<uint8_t>(ends.size(), 0), &table));
    engine_->setText(std::move(table));
  }
  ~Served() {
    engine_->stop();
    engine_->join();
  }

  Engine& engine() { return *engine_; }
  const std::string& loadFailure() const { return loadFailure_; }

  // Until the engine is at rest.
  void rest() {
    while (engine_->stats().running != 0 || engine_->stats().queued != 0) std::this_thread::yield();
  }

  std::vector<Answer> wait(int id, int n, bool thenRest = true) {
    auto ended = [&] {
      const auto& samples = answers_[id];
      size_t done = 0;
      for (const auto& [index, answer] : samples) done += answer.finish != Finish::none;
      return done == size_t(n);
    };
    wait(ended);
    if (thenRest) rest();
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Answer> out;
    for (const auto& [index, answer] : answers_[id]) out.push_back(answer);
    answers_.erase(id);
    return out;
  }
  int submit(const Request& request) {
    int id = 0;
    Status status = engine_->submit(request, &id);
    if (!status.ok()) throw std::runtime_error(status.failure().message);
    return id;
  }
  std::vector<Answer> generate(const Request& request) { return wait(submit(request), request.n); }

  Floats logits(const Ints& tokens, std::string* failure = nullptr) {
    bool done = false;
    Floats result;
    std::string why;
    int id = 0;
    Status queued = engine_->submit(LogitsOf{tokens,
                                             [&](Status status, Floats values) {
                                               std::lock_guard<std::mutex> lock(mutex_);
                                               why = status.ok() ? "" : status.failure().message;
                                               result = std::move(values);
                                               done = true;
                                               changed_.notify_all();
                                             }},
                                    &id);
    if (queued.ok()) {
      wait([&] { return done; });
    } else {
      why = queued.failure().message;
    }
    if (failure) *failure = why;
    if (!failure && !why.empty()) throw std::runtime_error(why);
    return result;
  }
  Score::Result score(const Ints& tokens, int top) {
    bool done = false;
    Score::Result result;
    int id = 0;
    Status queued = engine_->submit(Score{tokens, top,
                                          [&](Status status, Score::Result values) {
                                            std::lock_guard<std::mutex> lock(mutex_);
                                            if (status.ok()) result = std::move(values);
                                            done = true;
                                            changed_.notify_all();
                                          }},
                                    &id);
    if (!queued.ok()) throw std::runtime_error(queued.failure().message);
    wait([&] { return done; });
    return result;
  }

 private:
  void wait(const std::function<bool()>& there) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(120), there)) throw std::runtime_error("the engine did not answer within two minutes");
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool loaded_ = false;
  std::string loadFailure_;
  std::map<int, std::map<int, Answer>> answers_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace ewe::test

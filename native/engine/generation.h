// One request under way: its samples, each a sequence of the scheduler, and what they answer. Knows no device.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "engine/request.h"
#include "engine/scheduler.h"
#include "ops/args.h"

namespace ewe {

class Generation {
 public:
  struct Sample : Sequence {
    Generation* generation;
    int index;
    TextStream text;
    bool begun = false, done = false;
    std::map<int, int> generated;  // how often each token was, where that is asked for

    Sample(Generation* owner, int number, TextStream stream) : generation(owner), index(number), text(std::move(stream)) {}
  };

  // The text table outlives it. Only the first sample has the prompt: the others begin with the first token that they draw from its last row.
  Generation(int id, Request request, const TextTable& text, uint64_t space);
  Generation(const Generation&) = delete;

  int id() const { return id_; }
  const Request& request() const { return request_; }
  std::deque<Sample>& samples() { return samples_; }
  bool done() const { return live_ == 0; }
  Times& times() { return times_; }  // the loop's to fill in
  int& reused() { return reused_; }  // and this: tokens of the prompt that were in the cache when it began
  bool penalised() const { return request_.repetitionPenalty != 1; }
  bool counted() const { return request_.presencePenalty != 0 || request_.frequencyPenalty != 0; }
  // What is added to logits before the sample's next token is drawn, by rising ids.
  void adjustments(const Sample& sample, std::vector<int>& ids, std::vector<float>& amounts) const;

  // How the next token of a sample is drawn, without what lies on the device.
  Sampling sampling(const Sample& sample) const;
  // The sample goes on with this token, or ends.
  Status accept(Sample& sample, Drawn& drawn, std::vector<Event>& events);
  // Ends what is not done yet.
  void finish(Finish why, const std::shared_ptr<Failure>& failure, std::vector<Event>& events);

 private:
  void end(Sample& sample, Event& event);

  const int id_;
  const Request request_;
  std::deque<Sample> samples_;
  int live_;
  Times times_;
  int reused_ = 0;
};

}  // namespace ewe

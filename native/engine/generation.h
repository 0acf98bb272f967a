// One request under way: its prompt, its samples, and the step that they take next. Samples share the prompt's whole pages and copy its last one.
#pragma once
#include <memory>
#include <vector>

#include "engine/pages.h"
#include "engine/request.h"
#include "engine/runner.h"

namespace ewe {

class Generation {
 public:
  // Takes over the prompt's pages. The text table outlives it.
  Generation(int id, const Request& request, Runner& runner, Pages& pages, const TextTable& text, std::vector<int> promptPages);
  ~Generation();

  // Draws the first token of every sample from the logits of the prompt's last row (the runner's last head).
  Status first(std::vector<Event>& events);
  // One token more for up to maxBatch samples.
  Status step(const std::atomic<bool>& stop, std::vector<Event>& events);
  bool done() const { return live_ == 0; }
  int running() const { return int(active_.size()); }
  // Ends what is not done yet.
  void finish(Finish why, const std::shared_ptr<Failure>& failure, std::vector<Event>& events);

 private:
  struct Sequence {
    int index;               // of the sample
    std::vector<int> pages;  // empty until active
    int length;              // tokens so far, prompt included; all but the last are in the cache
    int last;                // token that is not in the cache yet
    TextStream text;
    bool done = false;
  };

  Sampling sampling(const Sequence& sequence, int slot) const;
  Status activate(Sequence& sequence, int slot);
  Status grow(Sequence& sequence);
  void retire(Sequence& sequence);
  Status accept(Sequence& sequence, int slot, Drawn& drawn, std::vector<Event>& events);
  Status penalise(int slot, int at, const int* tokens, int count);

  const int id_;
  const Request& request_;
  Runner& runner_;
  Pages& pages_;
  std::vector<int> promptPages_;
  std::vector<Sequence> sequences_;
  std::vector<std::vector<int>> generated_;  // per sample, for the repetition penalty
  std::vector<int> active_;                  // index of the sequence in each slot in use
  int waiting_ = 0;                          // next sequence to become active
  int live_;
};

}  // namespace ewe

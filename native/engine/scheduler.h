// Who takes part in the next step: a pure function of what came in and what was drawn so far, without devices and clocks. Order is priority, then
// age.
//
// A step has one row of every sequence that decodes, and fills its rows up with prompts, in chunks; what is left of places and pages goes to those
// that wait. When pages run out, the last in order gives its pages back and waits in its old place: later its prompt is computed again, or found in
// the index, and then its generated tokens as rows of their own class, so that it goes on with the same bits. The first in order can always go on:
// alone it fits.
#pragma once
#include <vector>

#include "engine/pages.h"

namespace ewe {

// A sequence as the scheduler sees it. Those who derive from it keep what else they know.
struct Sequence {
  std::vector<int> tokens;  // the prompt, then what was drawn
  int prompt = 0;           // tokens of the prompt
  int most = 0;             // tokens it can come to
  int priority = 0;         // more goes first
  int64_t order = 0;        // less goes first among equals; of no other sequence
  uint64_t space = 0;       // of the index of pages
  bool everyRow = false;    // the results of all its rows are wanted: nothing of it may be taken from the index

  // The scheduler's own.
  int computed = 0;  // tokens whose rows are in the cache
  int slot = -1;     // its place among the sequences that run, or -1: it waits
  std::vector<int> pages;
  Pages::Place place;

  int left() const { return int(tokens.size()) - computed; }
};

// A sequence's part of a step: its next `count` tokens.
struct Share {
  Sequence* sequence;
  int count;
  bool prompt;  // class of these tokens
  bool last;    // it comes to its last token: the next is drawn from there
};

struct StepPlan {
  std::vector<Share> shares;                // those of prompts first
  std::vector<Sequence*> started;           // have a slot since this step
  std::vector<std::pair<int, int>> copies;  // pages, from and to, before anything else
  int rows = 0, reused = 0, preempted = 0;  // reused: tokens found in the index
  bool decodes() const { return !shares.empty() && rows == int(shares.size()) && !shares[0].prompt; }
};

class Scheduler {
 public:
  struct Limits {
    int sequences, rows;  // of a step; rows may be fewer than sequences: then those that decode are what a step has
    // Whether a sequence starts only when all that run could come to their most tokens: then none is ever sent back.
    bool reserve;
  };
  Scheduler(Pages& pages, int pageSize, const Limits& limits) : pages_(pages), pageSize_(pageSize), limits_(limits) {}

  // Pages that a sequence needs when alone. The last token that is drawn never enters the cache.
  static int pagesFor(int tokens, int pageSize) { return (tokens + pageSize - 1) / pageSize; }

  void add(Sequence& sequence);
  // It takes no further part. Its pages are free at once.
  void remove(Sequence& sequence);
  // What the next step does. It is over with done(), or with failed() if nothing of it counts.
  const StepPlan& plan();
  void done();
  void failed();

  int running() const { return int(running_.size()); }
  int waiting() const { return int(waiting_.size()); }

 private:
  struct Before {
    bool operator()(const Sequence* a, const Sequence* b) const {
      return a->priority != b->priority ? a->priority > b->priority : a->order < b->order;
    }
  };
  bool decodes(const Sequence& s) const { return s.computed >= s.prompt && s.left() == 1; }
  bool grow(Sequence& s, int tokens);
  bool growOrSendBack(size_t at, int tokens);
  void give(size_t at, int& room);
  bool start(Sequence& s);
  bool admits(const Sequence& s) const;
  void sendBack(Sequence& s);
  void leave(Sequence& s);

  Pages& pages_;
  const int pageSize_;
  const Limits limits_;
  std::set<Sequence*, Before> waiting_;
  std::vector<Sequence*> running_;  // in order
  std::vector<int> freeSlots_;
  int slots_ = 0;
  StepPlan step_;
  bool short_ = false;  // pages ran out in this step
};

}  // namespace ewe

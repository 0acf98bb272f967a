// A step on the device: what the scheduler planned becomes pieces for the runner, and what the runner drew goes to whom it belongs.
#pragma once
#include "engine/generation.h"
#include "engine/runner.h"

namespace ewe {

// A score or logits under way: all rows of a prompt are wanted.
struct Evaluation : Sequence {
  std::unique_ptr<Score> score;  // or
  std::unique_ptr<LogitsOf> logits;
  Score::Result scored;
  std::vector<float> values;
  bool begun = false;  // the loop's: it has had a place

  void finish(Status status);
};

// A sample and what it drew.
struct Draw {
  Generation::Sample* sample;
  Drawn drawn;
};

// Runs the plan. A prompt's last row draws the first tokens of all samples of its request.
Status work(const StepPlan& plan, Runner& runner, const std::atomic<bool>& stop, std::vector<Draw>& draws);
// The token that a running sample goes on with, for its penalties.
Status remember(const Generation::Sample& sample, Runner& runner);

}  // namespace ewe

// What the CUDA device would launch on cards that are not here: the real backend and the real forward pass, over a driver that executes nothing and
// lists what it is asked for.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "cases.h"
#include "cuda/backend.h"
#include "engine/layout.h"
#include "model/forward.h"

namespace ewe::test {

// A card family with what it can do at best, from its datasheet (dense).
struct Family {
  cuda::Card card;
  double bandwidth;  // GB/s
  double multiply;   // TFLOP/s of 16-bit products with fp32 accumulation
};
extern const std::vector<Family> kFamilies;

struct Launched {
  std::string kernel;
  cuda::Dim grid, block;
  int sharedBytes;
};

// One op of a step, with its cost by args.h and the launches it came to.
struct Listed {
  std::string op;
  Cost cost;
  std::vector<Launched> launches;
};

// A card of a family as an ops device. Memory is addresses that nothing reads.
class Listing {
 public:
  explicit Listing(const cuda::Card& card);
  ~Listing();
  Ops& ops();
  std::vector<Listed> listed;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// rows: of each of `sequences` sequences, whose last position is `context` - 1. Prompt rows, or one generated row each.
struct StepShape {
  int sequences, rows, context;
  bool prompt;
};
// Embedding, all layers, head of each sequence's last row, and its draw.
Status runStep(Listing& listing, const Spec& spec, DType weights, const StepShape& shape);
// Of an engine that runs such steps and no larger ones.
EngineOptions optionsOf(const Spec& spec, DType weights, const StepShape& shape);

// ewe-cases --planned PACK: prints, as JSON, the families, the launches of every step of the walk, and the steps of the Dolly models op by op;
// refuses a pack that lacks a kernel for one of the cards. What scripts/kernel-gates.mjs reads.
int planned(const char* pack);

}  // namespace ewe::test

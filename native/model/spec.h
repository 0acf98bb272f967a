// The architecture of a model as plain numbers: what config.json says, after src/checkpoint/config.ts has checked it.
#pragma once
#include "ops/args.h"

namespace ewe {

struct Spec {
  int layers, hidden, heads, kvHeads, headSize, inner, vocab;
  int maxPositions;
  int rotarySize;  // rotated components per head
  double rotaryBase;
  bool parallel;    // x + attention(norm1 x) + mlp(norm2 x), else one after the other
  bool sharedNorm;  // parallel with one norm for both branches (GPT-J)
  Activation activation;
  float normEps;
  float clipQkv;  // 0: none
};

}  // namespace ewe

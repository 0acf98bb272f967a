// The kernels of planted.cu, each right as it is and wrong in one way for each of its faults.
#pragma once

namespace ewe::kernels {

enum Fault : int {
  kNone = 0,
  // gemm
  kNoBarrierAfterUse,   // the next tile is loaded while others still read this one
  kNoBarrierAfterWait,  // a thread waits for its own copies and reads those of others
  kNoWait,
  kNoCommit,
  kNoSwizzle,  // right values, bank conflicts
  // reduce
  kNoTrailingBarrier,
  kNoLeadingBarrier,
  // attend
  kNoEndBarrier,
  // select
  kNoBarrierBeforeAnswer,
  kNoBarrierAfterClear,
  // warp
  kLockStep,
  // blocks
  kSameWord,
  kNoFence,
  // meet
  kAbsentLane,
  kDivergence,
  kEarlyExit,
  kMixedInstructions,
  kTooFewForNamed,
  // address
  kPastShared,
  kFarPastShared,
  kPastMember,
  kPastGlobal,
  kWritePastGlobal,
  kFarPastGlobal,
  kCopyPastGlobal,
  kCopyOutsideShared,
  kMisalignedLoad,
  kMisalignedPointer,
  kMisalignedCopy,
  kMisalignedMatrix,
  kUnwrittenShared,
  kOutstandingCopy,
  kDeepStack,
  kDivideByZero,
};

struct Planted {
  const void *a, *b;
  void* out;
  int n, k, fault, zero;
};

constexpr int kTile = 32, kTileK = 32, kQueries = 128, kHead = 16, kKeys = 32, kBins = 64;

}  // namespace ewe::kernels

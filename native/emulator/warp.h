// The warp's instructions, as what the last lane to come does for all 32.
#pragma once
#include "emulator/block.h"

namespace ewe::emulator {

extern const Instruction kShuffleXor, kShuffle, kShuffleUp, kBallot;
extern const Instruction kLoadMatrices, kLoadMatricesTransposed;
extern const Instruction kMultiply16816F16, kMultiply16816Bf16, kMultiply884Row, kMultiply884Column;

}  // namespace ewe::emulator

// Runs the blocks of a launch on some threads of the host, each with a Block of its own, and counts what kernels do.
#pragma once
#include <string>

#include "emulator/block.h"
#include "emulator/control.h"

namespace ewe::emulator {

// Empty, or what went wrong.
std::string runLaunch(const Launch& launch);

}  // namespace ewe::emulator

// The emulator as a driver: its shared library, one for each path of kernels/plan.h, is opened when it is asked for.
#pragma once
#include <vector>

#include "cuda/driver.h"

namespace ewe::cuda {

// The driver of the emulated card of that path (700, 750, 800, 900), opened once per process. The library is looked for in EWE_EMULATOR_DIR where
// that is set, else beside this program or addon, and in the build-emulator folder of a clone. EWE_EMULATOR says how it runs its threads.
Status openEmulator(int path, Driver** out);
// The same settings, for the sessions opened from now on.
Status configureEmulator(int path, const char* settings);
// What each kernel did since the last call.
Status takeEmulatorStatistics(int path, std::vector<KernelStatistics>& out);

}  // namespace ewe::cuda

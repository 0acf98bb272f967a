// What a test asks of the emulator's library beside the driver. All are exported with C names, to be found by dlsym().
#pragma once
#include "cuda/driver.h"

namespace ewe::emulator {

using cuda::KernelStatistics;

}  // namespace ewe::emulator

extern "C" {
__attribute__((visibility("default"))) ewe::cuda::Driver* ewe_emulator_driver();
// Settings as in EWE_EMULATOR (emulator/settings.h), for the sessions opened from now on. False, and a message in `error`, where they make no sense.
__attribute__((visibility("default"))) bool ewe_emulator_configure(const char* settings, char* error, int errorBytes);
// What the kernels that ran so far did: up to `most` of them; returns how many there are.
__attribute__((visibility("default"))) int ewe_emulator_statistics(ewe::emulator::KernelStatistics* out, int most);
__attribute__((visibility("default"))) void ewe_emulator_reset_statistics();
}

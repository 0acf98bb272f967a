// The only factory of devices.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "ops/ops.h"

namespace ewe {

struct Device {
  std::unique_ptr<Threads> threads;  // outlives ops, which may use it
  std::unique_ptr<Ops> ops;
};

struct DeviceInfo {
  std::string id, kind, name;
  double memory = 0;                         // bytes
  std::vector<const char*> weights;          // dtypes of matrices that it multiplies
  std::vector<std::string> instructionSets;  // CPU
  int threads = 0;                           // CPU
  std::string family;                        // cards: "h200", or the generation: "hopper"
  int computeCapability = 0;                 // times ten
  int multiprocessors = 0;
  std::string problem;  // why no model can run on it, or empty
};

// id: "cpu", "cuda", "cuda:N", "emulator", "emulator:PATH". threads 0: one per processor. set: "auto" or the name of an instruction set.
Status makeDevice(const std::string& id, int threads, const std::string& set, Device& out);
// A device that tells types and sizes, for plans of memory: a card is looked at, but not opened.
Status makePlanner(const std::string& id, const std::string& set, Device& out);
// All devices; why there is no CUDA device goes to cudaReason.
std::vector<DeviceInfo> listDevices(std::string& cudaReason);

}  // namespace ewe

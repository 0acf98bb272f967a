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
  double memory = 0;          // bytes
  int computeCapability = 0;  // times ten
  std::vector<std::string> instructionSets;
  int threads = 0;
};

// id: "cpu", "cuda", "cuda:N". threads 0: one per processor. set: "auto" or the name of an instruction set.
Status makeDevice(const std::string& id, int threads, const std::string& set, Device& out);
// All devices; why there is no CUDA device goes to cudaReason.
std::vector<DeviceInfo> listDevices(std::string& cudaReason);

}  // namespace ewe

#include "napi/devices.h"

#include <unistd.h>

#include <fstream>

#include "cpu/cpu.h"
#include "cuda/driver.h"

namespace ewe {

Status makeDevice(const std::string& id, int threads, const std::string& set, Device& out) {
  if (id == "cpu") {
    out.threads = std::make_unique<Threads>(threads > 0 ? threads : Threads::available());
    Ops* ops = nullptr;
    EWE_TRY(createCpu(set.c_str(), *out.threads, &ops));
    out.ops.reset(ops);
    return {};
  }
  if (id == "cuda" || id.rfind("cuda:", 0) == 0) {
    cuda::Driver* driver = nullptr;
    EWE_TRY(cuda::openDriver(&driver));
    return Status::fail(Kind::device, "device '%s' cannot run a model: this build has no kernels for CUDA devices; use device 'cpu'", id.c_str());
  }
  return Status::fail(Kind::device, "there is no device '%s'; devices() lists those of this machine", id.c_str());
}

static std::string cpuName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

std::vector<DeviceInfo> listDevices(std::string& cudaReason) {
  std::vector<DeviceInfo> devices;
  DeviceInfo cpu;
  cpu.id = cpu.kind = "cpu";
  cpu.name = cpuName();
  cpu.memory = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE));
  cpu.threads = Threads::available();
  for (const char* const* set = kCpuSets; *set; set++) {
    if (cpuSupports(*set)) cpu.instructionSets.insert(cpu.instructionSets.begin(), *set);
  }
  devices.push_back(cpu);

  cuda::Driver* driver = nullptr;
  Status opened = cuda::openDriver(&driver);
  std::vector<cuda::Card> cards;
  if (opened.ok()) opened = driver->cards(cards);
  if (!opened.ok()) cudaReason = opened.failure().message;
  for (size_t i = 0; i < cards.size(); i++) {
    DeviceInfo info;
    info.id = "cuda:" + std::to_string(i);
    info.kind = "cuda";
    info.name = cards[i].name;
    info.memory = double(cards[i].memory);
    info.computeCapability = cards[i].computeCapability;
    devices.push_back(info);
  }
  return devices;
}

}  // namespace ewe

#include "napi/devices.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <mutex>

#include "base/here.h"
#include "cpu/cpu.h"
#include "cuda/backend.h"
#include "cuda/emulated.h"
#include "cuda/images.h"

namespace ewe {

namespace {

constexpr int kEmulatedPaths[] = {700, 750, 800, 900};
constexpr int kDefaultEmulatedPath = 800;

// A card and the kernels for it.
struct CardFound {
  cuda::Driver* driver = nullptr;
  int index = 0;
  cuda::Card card{};
  int path = 0;
  std::vector<cuda::Image> images;
};

// The pack beside the addon, read once: its images stay where they are for as long as the process lives.
Status kernelPack(const cuda::Images** out) {
  static std::mutex mutex;
  static cuda::Images* images = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (!images) {
    auto candidate = std::make_unique<cuda::Images>();
    EWE_TRY(cuda::openImages((ownFolder() + "/ewe.kernels").c_str(), *candidate));
    images = candidate.release();
  }
  *out = images;
  return {};
}

Status chooseImages(CardFound& found) {
  const cuda::Images* images = nullptr;
  EWE_TRY(kernelPack(&images));
  EWE_TRY(images->choose(found.card.computeCapability, found.images));
  found.path = images->path(found.card.computeCapability);
  return {};
}

Status unknown(const std::string& id) {
  return Status::fail(Kind::device, "there is no device '%s'; devices() lists those of this machine", id.c_str());
}

// The number behind the colon, or `absent`; -1 where there is something else.
int numberOf(const std::string& id, int absent) {
  const size_t colon = id.find(':');
  if (colon == std::string::npos) return absent;
  const std::string digits = id.substr(colon + 1);
  const bool number =
      !digits.empty() && digits.size() < 6 && std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c); });
  return number ? std::stoi(digits) : -1;
}

Status findCuda(const std::string& id, CardFound& found) {
  EWE_TRY(cuda::openDriver(&found.driver));
  std::vector<cuda::Card> cards;
  EWE_TRY(found.driver->cards(cards));
  found.index = numberOf(id, 0);
  if (found.index < 0) return unknown(id);
  if (size_t(found.index) >= cards.size())
    return Status::fail(Kind::device, "there is no device '%s': this machine has %zu, from cuda:0 on", id.c_str(), cards.size());
  found.card = cards[size_t(found.index)];
  return chooseImages(found);
}

Status findEmulated(const std::string& id, CardFound& found) {
  found.path = numberOf(id, kDefaultEmulatedPath);
  if (std::find(std::begin(kEmulatedPaths), std::end(kEmulatedPaths), found.path) == std::end(kEmulatedPaths))
    return Status::fail(Kind::device, "there is no device '%s': the emulator has the paths 700, 750, 800 and 900", id.c_str());
  EWE_TRY(cuda::openEmulator(found.path, &found.driver));
  std::vector<cuda::Card> cards;
  EWE_TRY(found.driver->cards(cards));
  found.card = cards.at(0);
  return {};
}

Status findCard(const std::string& id, CardFound& found) {
  const std::string kind = id.substr(0, id.find(':'));
  return kind == "cuda" ? findCuda(id, found) : kind == "emulator" ? findEmulated(id, found) : unknown(id);
}

std::string cpuName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

std::string familyOf(const cuda::Card& card) {
  std::string word;
  for (const char c : card.name + " ") {
    if (std::isalnum((unsigned char)c)) {
      word += char(std::tolower(c));
      continue;
    }
    for (const char* family : {"v100", "t4", "a100", "a10", "l4", "l40", "l40s", "h100", "h200", "b200"}) {
      if (word == family) return word;
    }
    word.clear();
  }
  const int c = card.computeCapability;
  return c >= 100 ? "blackwell" : c >= 90 ? "hopper" : c >= 89 ? "ada" : c >= 80 ? "ampere" : c >= 75 ? "turing" : "volta";
}

std::vector<const char*> weightsOf(const Ops& ops) {
  std::vector<const char*> names;
  const std::pair<DType, const char*> all[] = {
      {DType::float32, "float32"}, {DType::bfloat16, "bfloat16"}, {DType::float16, "float16"}, {DType::int8, "int8"}};
  for (const auto& [type, name] : all) {
    if (ops.multiplies(type)) names.push_back(name);
  }
  return names;
}

DeviceInfo describe(const std::string& id, const std::string& kind, const cuda::Card& card, int path) {
  DeviceInfo info;
  info.id = id;
  info.kind = kind;
  info.name = card.name;
  info.memory = double(card.memory);
  info.family = familyOf(card);
  info.computeCapability = card.computeCapability;
  info.multiprocessors = card.sms;
  if (path > 0) info.weights = weightsOf(cuda::Cuda(path));
  return info;
}

}  // namespace

Status makeDevice(const std::string& id, int threads, const std::string& set, Device& out) {
  out.threads = std::make_unique<Threads>(threads > 0 ? threads : Threads::available());
  if (id == "cpu") {
    Ops* ops = nullptr;
    EWE_TRY(createCpu(set.c_str(), *out.threads, &ops));
    out.ops.reset(ops);
    return {};
  }
  CardFound found;
  EWE_TRY(findCard(id, found));
  std::unique_ptr<cuda::Session> session;
  EWE_TRY(found.driver->open(found.index, session));
  return cuda::Cuda::create(std::move(session), found.card, found.path, found.images, out.ops);
}

Status makePlanner(const std::string& id, const std::string& set, Device& out) {
  if (id == "cpu") return makeDevice(id, 1, set, out);
  CardFound found;
  EWE_TRY(findCard(id, found));
  out.ops = std::make_unique<cuda::Cuda>(found.path);
  return {};
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
  Device device;
  const Status made = makeDevice("cpu", 1, "auto", device);
  if (made.ok()) cpu.weights = weightsOf(*device.ops);
  devices.push_back(cpu);

  cuda::Driver* driver = nullptr;
  Status status = cuda::openDriver(&driver);
  std::vector<cuda::Card> cards;
  if (status.ok()) status = driver->cards(cards);
  if (!status.ok()) cudaReason = status.failure().message;
  for (size_t i = 0; i < cards.size(); i++) {
    CardFound found;
    found.card = cards[i];
    const Status chosen = chooseImages(found);
    DeviceInfo info = describe("cuda:" + std::to_string(i), "cuda", found.card, found.path);
    if (!chosen.ok()) info.problem = chosen.failure().message;
    devices.push_back(info);
  }
  for (int path : kEmulatedPaths) {
    CardFound found;
    const std::string id = "emulator:" + std::to_string(path);
    if (findEmulated(id, found).ok()) devices.push_back(describe(id, "emulator", found.card, path));
  }
  return devices;
}

}  // namespace ewe

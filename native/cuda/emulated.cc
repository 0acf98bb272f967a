#include "cuda/emulated.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "base/here.h"

namespace ewe::cuda {

namespace {

struct Emulator {
  Driver* driver = nullptr;
  // As in emulator/control.h.
  bool (*configure)(const char* settings, char* error, int errorBytes) = nullptr;
  int (*statistics)(KernelStatistics* out, int most) = nullptr;
  void (*resetStatistics)() = nullptr;
};

std::vector<std::string> foldersToSearch() {
  if (const char* chosen = std::getenv("EWE_EMULATOR_DIR"); chosen && *chosen) return {chosen};
  const std::string folder = ownFolder();
  return {folder, folder + "/../build-emulator", folder + "/../../build-emulator"};
}

Status load(const std::string& file, Emulator& out) {
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return Status::fail(Kind::device, "the emulator cannot be loaded: %s", dlerror());
  const auto make = reinterpret_cast<Driver* (*)()>(dlsym(library, "ewe_emulator_driver"));
  out.configure = reinterpret_cast<decltype(out.configure)>(dlsym(library, "ewe_emulator_configure"));
  out.statistics = reinterpret_cast<decltype(out.statistics)>(dlsym(library, "ewe_emulator_statistics"));
  out.resetStatistics = reinterpret_cast<decltype(out.resetStatistics)>(dlsym(library, "ewe_emulator_reset_statistics"));
  if (!make || !out.configure || !out.statistics || !out.resetStatistics) return Status::fail(Kind::device, "%s is not the emulator", file.c_str());
  out.driver = make();
  return {};
}

Status open(int path, Emulator& out) {
  static std::mutex mutex;
  // Never closed: its threads may still be about.
  static std::map<int, Emulator> opened;
  std::lock_guard<std::mutex> lock(mutex);
  Emulator& emulator = opened[path];
  const std::string name = "libewe-emulator-" + std::to_string(path) + ".so";
  std::string searched;
  for (const std::string& folder : foldersToSearch()) {
    if (emulator.driver) break;
    searched += (searched.empty() ? "" : ", ") + folder;
    if (access((folder + "/" + name).c_str(), F_OK) == 0) EWE_TRY(load(folder + "/" + name, emulator));
  }
  if (!emulator.driver) {
    return Status::fail(Kind::device, "there is no %s in %s; `node scripts/build.mjs --emulator` in a clone builds it", name.c_str(),
                        searched.c_str());
  }
  out = emulator;
  return {};
}

}  // namespace

Status openEmulator(int path, Driver** out) {
  Emulator emulator;
  EWE_TRY(open(path, emulator));
  *out = emulator.driver;
  return {};
}

Status configureEmulator(int path, const char* settings) {
  Emulator emulator;
  EWE_TRY(open(path, emulator));
  char error[500] = "";
  if (emulator.configure(settings, error, sizeof error)) return {};
  return Status::fail(Kind::option, "%s", error);
}

Status takeEmulatorStatistics(int path, std::vector<KernelStatistics>& out) {
  Emulator opened;
  EWE_TRY(open(path, opened));
  out.resize(size_t(opened.statistics(nullptr, 0)));
  opened.statistics(out.data(), int(out.size()));
  opened.resetStatistics();
  return {};
}

}  // namespace ewe::cuda

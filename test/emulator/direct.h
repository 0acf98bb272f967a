// Runs a kernel through the driver interface alone, for tests of the emulator and for work on one kernel: no backend, no model.
//
//   Direct card("schedule=prio,seed=3");
//   auto x = card.upload(values), y = card.make<float>(count);
//   card.launch(norm::plan(args, card.limits()), args);       // or card.launch("name", {grid}, threads, sharedBytes, args)
//   std::vector<float> got = card.download(y);
#pragma once
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/control.h"
#include "kernels/plan.h"

namespace ewe::test {

inline void check(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.failure().message);
}

template <class T>
struct DeviceArray {
  T* data;
  size_t count;
};

class Direct {
 public:
  explicit Direct(const std::string& settings = "") : Direct(emulatorOf(settings)) {}
  explicit Direct(cuda::Driver& driver) {
    std::vector<cuda::Card> cards;
    check(driver.cards(cards));
    card = cards.at(0);
    check(driver.open(0, session));
    check(session->createStream(&stream));
  }

  kernels::CardLimits limits() const {
    return {kernels::pathOf(card.computeCapability),
            card.sms,
            card.sharedPerBlock,
            card.sharedPerSm,
            card.registersPerSm,
            card.threadsPerSm,
            card.blocksPerSm};
  }

  template <class T>
  DeviceArray<T> make(size_t count) {
    void* memory = nullptr;
    check(session->allocate(&memory, count * sizeof(T)));
    return {static_cast<T*>(memory), count};
  }
  template <class T>
  DeviceArray<T> upload(const std::vector<T>& values) {
    DeviceArray<T> array = make<T>(values.size());
    check(session->copyIn(stream, array.data, values.data(), values.size() * sizeof(T)));
    check(session->synchronize(stream));
    return array;
  }
  template <class T>
  std::vector<T> download(const DeviceArray<T>& array) {
    std::vector<T> values(array.count);
    check(session->copyOut(stream, values.data(), array.data, values.size() * sizeof(T)));
    check(session->synchronize(stream));
    return values;
  }

  template <class Args>
  void launch(const char* name, cuda::Dim grid, int threads, int sharedBytes, const Args& args) {
    cuda::Kernel kernel = nullptr;
    check(session->find(name, sharedBytes, &kernel));
    if (!kernel) throw std::runtime_error(std::string("there is no kernel ") + name);
    check(session->launch(stream, kernel, grid, {unsigned(threads), 1, 1}, sharedBytes, &args, sizeof args));
    check(session->synchronize(stream));
  }
  template <class Args>
  void launch(const kernels::Launch& plan, const Args& args) {
    if (!plan.name[0]) throw std::runtime_error(std::string("the plan refuses: ") + plan.refusal);
    launch(plan.name, {plan.gridX, plan.gridY, plan.gridZ}, int(plan.threads), plan.sharedBytes, args);
  }

  // What a kernel did since the settings were made.
  emulator::KernelStatistics statistics(const std::string& name) const {
    std::vector<emulator::KernelStatistics> all(1024);
    all.resize(size_t(ewe_emulator_statistics(all.data(), int(all.size()))));
    for (const auto& one : all)
      if (name == one.name) return one;
    throw std::runtime_error("the kernel " + name + " did not run");
  }

  static cuda::Driver& emulatorOf(const std::string& settings) {
    char error[400];
    if (!ewe_emulator_configure(settings.c_str(), error, sizeof error)) throw std::runtime_error(error);
    return *ewe_emulator_driver();
  }

  cuda::Card card;
  std::unique_ptr<cuda::Session> session;
  cuda::Stream stream = nullptr;
};

}  // namespace ewe::test

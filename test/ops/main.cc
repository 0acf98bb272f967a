// ewe-cases --list [prefix]              the names of the cases, one a line
//           --run NAME [--set SET]       runs one case; a line for each failure; exit status 0, 1 failed, 2 misused
//           --all [prefix] [--set SET]   runs all of them, and ends with a count
//           --bench [prefix] [--set SET] [--threads N]
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "base/threads.h"
#include "cases.h"
#include "cpu/cpu.h"

namespace ewe::test {

static Cases& allCases() {
  static Cases cases;
  return cases;
}
Suite::Suite(void (*fill)(Cases&)) { fill(allCases()); }

static Run runOn(const Case& c, Ops& ops) {
  Run run(ops, c.bench);
  try {
    c.body(run);
    if (run.compared == 0) run.failures.push_back("nothing was compared");
  } catch (const std::exception& error) {
    run.failures.push_back(error.what());
  }
  return run;
}

static std::vector<std::string> setsFor(const std::string& wanted) {
  std::vector<std::string> sets;
  for (const char* const* set = kCpuSets; *set; set++)
    if (wanted.empty() ? cpuSupports(*set) : wanted == *set) sets.push_back(*set);
  return sets;
}

static std::unique_ptr<Ops> deviceOf(const std::string& set, Threads& threads) {
  Ops* ops = nullptr;
  Status status = createCpu(set.c_str(), threads, &ops);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.failure().message);
    std::exit(2);
  }
  return std::unique_ptr<Ops>(ops);
}

static bool sameBits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * 4) == 0);
}

// On every set with 1, 2 and 3 threads, which may not change a bit. Sets that have fma do the same operations in the same order but for the product
// of bfloat16 pairs, so they must agree in bits as well.
static bool passes(const Case& c, const std::vector<std::string>& sets) {
  bool ok = true;
  auto fail = [&](const std::string& where, const std::string& why) {
    ok = false;
    std::printf("FAIL %s [%s]: %s\n", c.name.c_str(), where.c_str(), why.c_str());
  };
  std::vector<Result> withFma;
  for (const auto& set : sets) {
    std::vector<Result> alone;
    for (int threads = 1; threads <= 3; threads++) {
      const std::string where = set + ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads");
      Threads team(threads);
      const auto device = deviceOf(set, team);
      const Run run = runOn(c, *device);
      for (const auto& failure : run.failures) fail(where, failure);
      if (threads == 1) alone = run.results;
      for (size_t i = 0; i < run.results.size(); i++) {
        if (i >= alone.size() || !sameBits(run.results[i].values, alone[i].values)) fail(where, run.results[i].what + ": not the bits of one thread");
      }
    }
    if (set == "plain") continue;
    if (withFma.empty()) withFma = alone;
    for (size_t i = 0; i < alone.size(); i++) {
      if (alone[i].fmaExact && (i >= withFma.size() || !sameBits(alone[i].values, withFma[i].values)))
        fail(set, alone[i].what + ": not the bits of the first set with fma");
    }
  }
  return ok;
}

static int main(int count, char** arguments) {
  std::string mode, name, set;
  int threads = 1;
  for (int i = 1; i < count; i++) {
    const std::string argument = arguments[i];
    if (argument == "--set" && i + 1 < count) {
      set = arguments[++i];
    } else if (argument == "--threads" && i + 1 < count) {
      threads = std::atoi(arguments[++i]);
    } else if (mode.empty()) {
      mode = argument;
    } else {
      name = argument;
    }
  }
  const auto sets = setsFor(set);
  if (sets.empty()) {
    std::fprintf(stderr, "There is no instruction set \"%s\".\n", set.c_str());
    return 2;
  }
  int found = 0, failed = 0;
  for (const Case& c : allCases().all) {
    const bool matches = mode == "--run" ? c.name == name : c.name.compare(0, name.size(), name) == 0;
    if (!matches || c.bench != (mode == "--bench")) continue;
    found++;
    if (mode == "--list") {
      std::printf("%s\n", c.name.c_str());
    } else if (mode == "--run" || mode == "--all") {
      if (!passes(c, sets)) failed++;
    } else if (mode == "--bench") {
      for (const auto& one : sets) {
        Threads team(threads);
        const auto device = deviceOf(one, team);
        const Run run = runOn(c, *device);
        std::printf("%s [%s, %d threads]: %s\n", c.name.c_str(), one.c_str(), threads,
                    run.failures.empty() ? run.figures.c_str() : run.failures[0].c_str());
        std::fflush(stdout);
        if (!run.failures.empty()) failed++;
      }
    }
  }
  if (found == 0) {
    std::fprintf(stderr,
                 "No case is named \"%s\". Use --list [prefix], --run NAME, --all [prefix] or --bench [prefix], with --set SET or --threads N.\n",
                 name.c_str());
    return 2;
  }
  if (mode == "--all") std::printf("%d passed, %d failed\n", found - failed, failed);
  return failed ? 1 : 0;
}

}  // namespace ewe::test

int main(int count, char** arguments) { return ewe::test::main(count, arguments); }

// ewe-cases --list [prefix]       the names of the cases, one a line
//           --run NAME            runs one case; a line for each failure; exit status 0, 1 failed, 2 misused
//           --all [prefix]        runs all of them, and ends with a count; with --small only those that take less than 4 MiB
//           --bench [prefix]      with --json: one object a line; with --small all in brief, in less than 4 MiB, to see that they run
//           --draws N             draws N random rows: the device, the CPU device and the definition must agree (draws.cc)
//           --planned PACK        the launches that the plans come to, as JSON (test/kernels/launches.h)
//
// --rounds N                      random mixes that a case tries (1), from --seed on
//
// --device cpu                    on every instruction set with 1 to 3 threads, or on one: --set SET, --threads N
// --device emulator[:PATH]        the emulated card of path 700, 750, 800 (default) or 900, in several schedules from --seed N on, or in one way:
//                                 --settings TEXT (native/emulator/settings.h)
// --device cuda[:N]               with the kernels of --kernels FILE (prebuilds/linux-x64/ewe.kernels)
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "../kernels/launches.h"
#include "base/here.h"
#include "base/threads.h"
#include "cases.h"
#include "cpu/cpu.h"
#include "cuda/backend.h"
#include "cuda/emulated.h"
#include "cuda/images.h"

namespace ewe::test {

static Cases& allCases() {
  static Cases cases;
  return cases;
}
Suite::Suite(void (*fill)(Cases&)) { fill(allCases()); }

struct Device {
  std::unique_ptr<Threads> threads;
  std::unique_ptr<Ops> ops;
};

// A way to run a case. The results of all ways of a group must have the same bits. Sets of the CPU that have fma do the same operations in the same
// order, but for the product of bfloat16 pairs: so where `fma`, groups must agree in bits as well.
struct Way {
  std::string where, group;
  bool fma;
  std::function<std::shared_ptr<Device>()> make;
  int emulatedPath = 0;  // of an emulated card
};

[[noreturn]] static void misused(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(2);
}
static void demand(Status status) {
  if (!status.ok()) misused(status.failure().message);
}

constexpr size_t kSmall = size_t(4) << 20;

struct Options {
  std::string mode, name, device = "cpu", set, settings, kernels = ownFolder() + "/../prebuilds/linux-x64/ewe.kernels";
  int threads = 0, seed = 1, rounds = 0;
  bool small = false, json = false;
};

static Run runOn(const Case& c, Ops& ops, const Options& o) {
  Run run(ops, c.bench);
  if (o.small) run.most = kSmall;
  run.rounds = o.rounds > 0 ? o.rounds : 1;
  run.seed = uint64_t(o.seed);
  try {
    c.body(run);
    if (run.compared == 0) run.failures.push_back("nothing was compared");
  } catch (const TooLarge&) {
    run.large = true;
  } catch (const std::exception& error) {
    run.failures.push_back(error.what());
  }
  return run;
}

static std::shared_ptr<Device> makeCpu(const char* set, int threads) {
  auto device = std::make_shared<Device>(Device{std::make_unique<Threads>(threads), nullptr});
  Ops* ops = nullptr;
  demand(createCpu(set, *device->threads, &ops));
  device->ops.reset(ops);
  return device;
}

static std::vector<Way> cpuWays(const Options& o) {
  std::vector<Way> ways;
  for (const char* const* set = kCpuSets; *set; set++) {
    if (o.set.empty() ? !cpuSupports(*set) : o.set != *set) continue;
    const int least = std::max(o.threads, 1), most = o.mode == "--bench" || o.threads > 0 ? least : 3;
    for (int threads = least; threads <= most; threads++) {
      ways.push_back({std::string(*set) + ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads"), *set,
                      std::strcmp(*set, "plain") != 0, [=] { return makeCpu(*set, threads); }});
    }
  }
  if (ways.empty()) misused("There is no instruction set \"" + o.set + "\".");
  return ways;
}

static cuda::Card cardOf(cuda::Driver& driver, int index) {
  std::vector<cuda::Card> cards;
  demand(driver.cards(cards));
  if (index >= int(cards.size())) misused("There are " + std::to_string(cards.size()) + " cards.");
  return cards[size_t(index)];
}

static std::shared_ptr<Device> makeCard(cuda::Driver& driver, int index, int path, const std::vector<cuda::Image>& images) {
  std::unique_ptr<cuda::Session> session;
  demand(driver.open(index, session));
  auto device = std::make_shared<Device>();
  demand(cuda::Cuda::create(std::move(session), cardOf(driver, index), path, images, device->ops));
  return device;
}

// A real card is opened once, since that takes longer than most cases, and anew after a failure, which may have been its last.
static std::shared_ptr<Device> realCard;

static std::shared_ptr<Device> openRealCard(cuda::Driver& driver, int index, const Options& o) {
  static cuda::Images pack;  // what it chooses points into it
  if (realCard) return realCard;
  demand(cuda::openImages(o.kernels.c_str(), pack));
  const int capability = cardOf(driver, index).computeCapability;
  std::vector<cuda::Image> images;
  demand(pack.choose(capability, images));
  return realCard = makeCard(driver, index, pack.path(capability), images);
}

// No one schedule finds every race (native/emulator/settings.h says what each is for), so a case runs in several, and must come to the same bits.
static std::vector<std::string> settingsOf(const Options& o) {
  if (!o.settings.empty()) return {o.settings};
  const std::string seed = ",seed=" + std::to_string(o.seed);
  if (o.mode == "--bench") return {"schedule=fifo,copies=eager"};
  return {"schedule=fifo,copies=lazy,streams=shuffle" + seed, "schedule=lifo,copies=eager" + seed, "schedule=prio,copies=coin,workers=2" + seed,
          "schedule=random,copies=coin,streams=shuffle" + seed};
}

static std::vector<Way> waysOf(const Options& o) {
  if (o.device == "cpu") return cpuWays(o);
  const std::string kind = o.device.substr(0, o.device.find(':'));
  const int number = kind.size() < o.device.size() ? std::atoi(o.device.c_str() + kind.size() + 1) : -1;
  std::vector<Way> ways;
  cuda::Driver* driver = nullptr;
  if (kind == "emulator") {
    const int path = number < 0 ? 800 : number;
    demand(cuda::openEmulator(path, &driver));
    for (const std::string& settings : settingsOf(o)) {
      ways.push_back({o.device + " " + settings, "card", false,
                      [=] {
                        demand(cuda::configureEmulator(path, settings.c_str()));
                        return makeCard(*driver, 0, path, {});
                      },
                      path});
    }
  } else if (kind == "cuda") {
    demand(cuda::openDriver(&driver));
    const int index = std::max(number, 0);
    ways.push_back({o.device, "card", false, [=] { return openRealCard(*driver, index, o); }});
    if (o.mode != "--bench") ways.push_back({"second run", "card", false, ways[0].make});  // must find the bits of the first
  } else {
    misused("There is no device \"" + o.device + "\": cpu, emulator[:PATH] or cuda[:N].");
  }
  return ways;
}

static bool sameBits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * 4) == 0);
}

// Rows that a matrix load reads together must lie in different banks of shared memory: results are right without that, and slow.
static std::vector<std::string> conflictsOn(int path) {
  std::vector<cuda::KernelStatistics> kernels;
  demand(cuda::takeEmulatorStatistics(path, kernels));
  std::vector<std::string> found;
  for (const auto& k : kernels) {
    if (k.conflicts > 0)
      found.push_back(std::string(k.name) + ": " + std::to_string(k.conflicts) + " bank conflicts in " + std::to_string(k.matrixLoads) +
                      " matrix loads");
  }
  return found;
}

enum class Outcome { passed, failed, refused, large };

static Outcome judge(const Case& c, const Options& options) {
  Outcome outcome = Outcome::passed;
  auto fail = [&](const std::string& where, const std::string& why) {
    outcome = Outcome::failed;
    std::printf("FAIL %s [%s]: %s\n", c.name.c_str(), where.c_str(), why.c_str());
  };
  std::vector<Result> first, withFma;  // of the group, and of the first set with fma
  std::string group;
  for (const Way& way : waysOf(options)) {
    const std::shared_ptr<Device> device = way.make();
    const Run run = runOn(c, *device->ops, options);
    for (const auto& failure : run.failures) fail(way.where, failure);
    if (way.emulatedPath) {
      for (const auto& conflict : conflictsOn(way.emulatedPath)) fail(way.where, conflict);
    }
    if (!run.failures.empty() || run.lost) realCard = nullptr;
    if (run.refused && outcome == Outcome::passed) outcome = Outcome::refused;
    if (run.large) return Outcome::large;
    if (c.once) return outcome;
    if (way.group != group) {
      group = way.group;
      first = run.results;
      if (way.fma && withFma.empty()) withFma = first;
      for (size_t i = 0; i < first.size() && way.fma; i++) {
        if (first[i].fmaExact && (i >= withFma.size() || !sameBits(first[i].values, withFma[i].values)))
          fail(way.where, first[i].what + ": not the bits of the first set with fma");
      }
    }
    for (size_t i = 0; i < run.results.size(); i++) {
      if (i >= first.size() || !sameBits(run.results[i].values, first[i].values))
        fail(way.where, run.results[i].what + ": not the bits of the first");
    }
  }
  return outcome;
}

static bool bench(const Case& c, const Options& options) {
  bool ok = true;
  for (const Way& way : waysOf(options)) {
    const std::shared_ptr<Device> device = way.make();
    const Run run = runOn(c, *device->ops, options);
    if (run.large) continue;
    const std::string text = !run.failures.empty() ? run.failures[0] : run.refused ? "refused by the device" : run.figures;
    if (!options.json) {
      std::printf("%s [%s]: %s\n", c.name.c_str(), way.where.c_str(), text.c_str());
    } else if (run.failures.empty() && !run.measured.empty()) {
      for (const Measured& m : run.measured) {
        std::printf("{\"name\": \"%s%s\", \"where\": \"%s\", \"microseconds\": %.3f, \"bytesPerSecond\": %.6g, \"flopsPerSecond\": %.6g}\n",
                    c.name.c_str(), m.what.c_str(), way.where.c_str(), m.seconds * 1e6, m.cost.bytes / m.seconds, m.cost.flops / m.seconds);
      }
    } else {
      std::printf("{\"name\": \"%s\", \"where\": \"%s\", \"text\": \"%s\"}\n", c.name.c_str(), way.where.c_str(), text.c_str());
    }
    std::fflush(stdout);
    if (!run.failures.empty()) realCard = nullptr;
    ok = ok && run.failures.empty();
  }
  return ok;
}

// Random rows: whatever draws them, the same ones must come out.
static bool draws(const Options& options) {
  const std::shared_ptr<Device> cpu = makeCpu("auto", 1);
  const long count = std::atol(options.name.c_str());
  if (count < 1) misused("--draws wants a number of rows, not \"" + options.name + "\".");
  const Case c{"draws", [&](Run& run) { drawRows(run, *cpu->ops, count, unsigned(options.seed)); }, false, false};
  bool ok = true;
  for (const Way& way : waysOf(options)) {
    const std::shared_ptr<Device> device = way.make();
    const Run run = runOn(c, *device->ops, options);
    for (const auto& failure : run.failures) std::printf("FAIL draws [%s]: %s\n", way.where.c_str(), failure.c_str());
    std::printf("%s: %ld rows %s\n", way.where.c_str(), count, run.failures.empty() ? "as on the CPU and as defined" : "and not all are the same");
    ok = ok && run.failures.empty();
  }
  return ok;
}

static Options parse(int count, char** arguments) {
  Options o;
  const std::pair<const char*, std::string*> texts[] = {
      {"--device", &o.device}, {"--set", &o.set}, {"--settings", &o.settings}, {"--kernels", &o.kernels}};
  const std::pair<const char*, int*> numbers[] = {{"--threads", &o.threads}, {"--seed", &o.seed}, {"--rounds", &o.rounds}};
  for (int i = 1; i < count; i++) {
    const std::string argument = arguments[i];
    bool taken = argument == "--small" || argument == "--json";
    o.small = o.small || argument == "--small";
    o.json = o.json || argument == "--json";
    for (const auto& [name, value] : texts) {
      if (argument == name && i + 1 < count && !taken) *value = arguments[++i], taken = true;
    }
    for (const auto& [name, value] : numbers) {
      if (argument == name && i + 1 < count && !taken) *value = std::atoi(arguments[++i]), taken = true;
    }
    if (!taken) (o.mode.empty() ? o.mode : o.name) = argument;
  }
  return o;
}

static int main(int count, char** arguments) {
  const Options o = parse(count, arguments);
  if (o.mode == "--planned") return planned(o.name.c_str());
  if (o.mode == "--draws") return draws(o) ? 0 : 1;
  int counts[4] = {}, found = 0;
  for (const Case& c : allCases().all) {
    const bool matches = o.mode == "--run" ? c.name == o.name : c.name.compare(0, o.name.size(), o.name) == 0;
    if (!matches || c.bench != (o.mode == "--bench")) continue;
    found++;
    if (o.mode == "--list") {
      std::printf("%s\n", c.name.c_str());
    } else if (o.mode == "--run" || o.mode == "--all") {
      counts[int(judge(c, o))]++;
    } else if (o.mode == "--bench") {
      counts[int(bench(c, o) ? Outcome::passed : Outcome::failed)]++;
    }
  }
  const int failed = counts[int(Outcome::failed)], refused = counts[int(Outcome::refused)], large = counts[int(Outcome::large)];
  if (found == 0) {
    std::fprintf(stderr,
                 "No case is named \"%s\". Use --list [prefix], --run NAME, --all [prefix] or --bench [prefix], with --device, --set, --threads or "
                 "--rounds.\n",
                 o.name.c_str());
    return 2;
  }
  if (o.mode == "--all") {
    if (refused) std::printf("%d of these by the refusal of what the device does not do\n", refused);
    if (large) std::printf("%d left out as not small\n", large);
    std::printf("%d passed, %d failed\n", found - failed - large, failed);
  }
  realCard = nullptr;  // before the driver's own clean-up
  return failed ? 1 : 0;
}

}  // namespace ewe::test

int main(int count, char** arguments) { return ewe::test::main(count, arguments); }

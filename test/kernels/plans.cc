// Every plan of every op on every card family: for all head sizes, types and sizes of a step that select a kernel. The walk goes through the backend
// and the forward pass, so what it lists is what a model launches.
#include <cstdarg>
#include <cstdio>
#include <map>
#include <set>

#include "cuda/images.h"
#include "launches.h"

namespace ewe::test {

static const DType kTypes[] = {DType::bfloat16, DType::float16, DType::int8};

static Spec specOf(int layers, int hidden, int heads, int headSize, int inner, int vocab, int rotary) {
  Spec s{};
  s.layers = layers;
  s.hidden = hidden;
  s.heads = s.kvHeads = heads;
  s.headSize = headSize;
  s.inner = inner;
  s.vocab = vocab;
  s.maxPositions = 2048;
  s.rotarySize = rotary;
  s.rotaryBase = 10000;
  s.parallel = true;
  s.activation = Activation::gelu;
  s.normEps = 1e-5f;
  return s;
}

struct Named {
  const char* name;
  Spec spec;
};
static const Named kDolly[] = {{"3b", specOf(32, 2560, 32, 80, 10240, 50280, 20)},
                               {"7b", specOf(32, 4096, 32, 128, 16384, 50280, 32)},
                               {"12b", specOf(36, 5120, 40, 128, 20480, 50280, 32)}};

// One layer of each kind of model: every head size, parallel and not, one norm and two, grouped heads, every activation, and sizes that are not
// round.
static std::vector<Spec> walkSpecs() {
  std::vector<Spec> specs;
  for (const Named& model : kDolly) {
    specs.push_back(model.spec);
    specs.back().layers = 1;
  }
  for (int headSize : {16, 32, 64, 80, 96, 128, 256}) {
    const Spec base = specOf(1, 8 * headSize, 8, headSize, 32 * headSize, 512, headSize / 4);
    for (int kind = 0; kind < 4; kind++) {
      specs.push_back(base);
      Spec& s = specs.back();
      if (kind == 1) s.parallel = false;
      if (kind == 2) s.sharedNorm = true;
      if (kind == 3) s.kvHeads = 2;
    }
  }
  const Activation all[] = {Activation::none, Activation::gelu, Activation::geluTanh,   Activation::quickGelu,
                            Activation::silu, Activation::relu, Activation::geluClipped};
  for (Activation activation : all) {
    for (bool parallel : {true, false}) {
      specs.push_back(specOf(1, 128, 8, 16, 512, 256, 16));
      specs.back().activation = activation;
      specs.back().parallel = parallel;
    }
  }
  specs.push_back(specOf(1, 176, 11, 16, 712, 50257, 4));
  specs.push_back(specOf(1, 512, 8, 64, 2048, 100352, 16));
  return specs;
}

static std::vector<StepShape> walkShapes() {
  std::vector<StepShape> shapes;
  for (int sequences : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129, 256})
    for (int context : {1, 300, 2048}) shapes.push_back({sequences, 1, context, false});
  for (int rows : {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 127, 128, 129, 255, 256, 257, 512, 2048})
    for (int sequences : {1, 3}) shapes.push_back({sequences, rows, 2048, true});
  return shapes;
}

static std::string describe(const Family& family, DType weights, const Spec& s, const StepShape& shape) {
  char text[200];
  std::snprintf(text, sizeof text, "%s, %s, head size %d, width %d, %d %s of %d rows", family.card.name.c_str(), nameOf(weights), s.headSize,
                s.hidden, shape.sequences, shape.prompt ? "prompts" : "generated sequences", shape.rows);
  return text;
}

// What tests ask for in float32: no product, so every card has it.
static Status runFloat32(Listing& listing) {
  Embed embed{};
  embed.rows.rows = embed.rows.sequences = 1;
  embed.vocab = 256;
  embed.width = 64;
  EWE_TRY(listing.ops().embed(embed));
  Norm norm{};
  norm.rows = 1;
  norm.width = 64;
  return listing.ops().norm(norm);
}

// visit(what, status of the step, its ops)
template <class Visit>
static void walk(const Family& family, Visit visit) {
  Listing listing(family.card);
  visit(family.card.name + ", float32", runFloat32(listing), listing.listed);
  for (DType weights : kTypes) {
    if (!listing.ops().multiplies(weights)) continue;
    for (const Spec& spec : walkSpecs()) {
      for (const StepShape& shape : walkShapes()) {
        listing.listed.clear();
        const Status status = runStep(listing, spec, weights, shape);
        visit(describe(family, weights, spec, shape), status, listing.listed);
      }
    }
  }
}

// ---- cases

static void limits(Run& run, const Family& family) {
  long launches = 0;
  std::set<std::string> failures;
  walk(family, [&](const std::string& what, const Status& status, const std::vector<Listed>& ops) {
    if (!status.ok()) failures.insert(what + ": " + status.failure().message);
    for (const Listed& op : ops) {
      for (const Launched& l : op.launches) {
        launches++;
        const unsigned threads = l.block.x * l.block.y * l.block.z;
        const bool fits = threads >= 32 && threads <= 1024 && threads % 32 == 0 && l.sharedBytes >= 0 &&
                          l.sharedBytes <= family.card.sharedPerBlock && l.grid.x >= 1 && l.grid.x <= 0x7FFFFFFF && l.grid.y >= 1 &&
                          l.grid.y <= 65535 && l.grid.z >= 1 && l.grid.z <= 65535;
        if (!fits)
          failures.insert(what + ": " + l.kernel + " with " + std::to_string(threads) + " threads, " + std::to_string(l.sharedBytes) +
                          " bytes of shared memory, grid " + std::to_string(l.grid.x) + " x " + std::to_string(l.grid.y) + " x " +
                          std::to_string(l.grid.z));
      }
    }
  });
  run.expect(launches > 10000, "only " + std::to_string(launches) + " launches");
  for (const auto& failure : failures) {
    run.expect(false, failure);
    if (run.failures.size() == 20) break;
  }
}

// What a card does not multiply is refused before anything is launched for it, and by type.
static void refusals(Run& run) {
  for (const Family& family : kFamilies) {
    Listing listing(family.card);
    for (DType weights : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
      const bool expected =
          weights == DType::float16 || weights == DType::int8 || (weights == DType::bfloat16 && family.card.computeCapability >= 80);
      const std::string what = family.card.name + ", " + nameOf(weights);
      run.expect(listing.ops().multiplies(weights) == expected, what + ": multiplies");
      if (expected) continue;
      for (bool prompt : {true, false}) {
        const Status status = runStep(listing, walkSpecs()[0], weights, {1, 1, 100, prompt});
        run.expect(!status.ok() && status.failure().kind == Kind::device && status.failure().message[0], what + " is refused");
      }
    }
  }
}

static Suite suite([](Cases& cases) {
  for (const Family& family : kFamilies)
    cases.once("plans/every launch keeps the limits of " + family.card.name, [&](Run& run) { limits(run, family); });
  cases.once("plans/types that a card does not multiply are refused", refusals);
});

// ---- for scripts/kernel-gates.mjs

namespace {

// What is wrong goes to stderr, a line each, but not a thousand times.
struct Problems {
  std::set<std::string> seen;
  void say(const std::string& problem) {
    if (seen.insert(problem).second && seen.size() <= 30) std::fprintf(stderr, "%s\n", problem.c_str());
  }
};

// The items of a JSON list, a line each.
struct Lines {
  const char* separator = "\n";
  void print(const std::string& line) {
    std::printf("%s  %s", separator, line.c_str());
    separator = ",\n";
  }
};

std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char* pattern, ...) {
  char text[500];
  va_list args;
  va_start(args, pattern);
  std::vsnprintf(text, sizeof text, pattern, args);
  va_end(args);
  return text;
}

void printCards() {
  Lines lines;
  for (const Family& f : kFamilies)
    lines.print(
        format("{\"name\": \"%s\", \"computeCapability\": %d, \"sms\": %d, \"sharedPerSm\": %d, \"registersPerSm\": %d, \"threadsPerSm\": %d, "
               "\"blocksPerSm\": %d, \"memory\": %zu, \"bandwidth\": %.0f, \"multiply\": %.0f}",
               f.card.name.c_str(), f.card.computeCapability, f.card.sms, f.card.sharedPerSm, f.card.registersPerSm, f.card.threadsPerSm,
               f.card.blocksPerSm, f.card.memory, f.bandwidth, f.multiply));
}

// Every kernel that is planned for the family, with each block size and shared memory it is launched with.
void printLaunches(const Family& family, const cuda::Images& images, const char* pack, Lines& lines, Problems& problems) {
  std::map<std::string, std::set<std::pair<unsigned, int>>> launches;
  walk(family, [&](const std::string& what, const Status& status, const std::vector<Listed>& ops) {
    if (!status.ok()) problems.say(what + ": " + status.failure().message);
    for (const Listed& op : ops)
      for (const Launched& l : op.launches) launches[l.kernel].insert({l.block.x * l.block.y * l.block.z, l.sharedBytes});
  });
  std::set<std::string> have;
  for (const char* name : images.kernels(family.card.computeCapability)) have.insert(name);
  for (const auto& [kernel, shapes] : launches) {
    if (!have.count(kernel)) problems.say(kernel + " is planned for " + family.card.name + " and not in " + pack);
    for (const auto& [threads, shared] : shapes)
      lines.print(format("{\"card\": \"%s\", \"kernel\": \"%s\", \"threads\": %u, \"shared\": %d}", family.card.name.c_str(), kernel.c_str(), threads,
                         shared));
  }
}

// A step of a Dolly model, op by op. Ops that are alike, as those of its layers, are one line with their count.
void printStep(const Family& family, const Named& model, DType weights, const StepShape& shape, Lines& lines, Problems& problems) {
  Listing listing(family.card);
  const Status status = runStep(listing, model.spec, weights, shape);
  if (!status.ok()) return problems.say(family.card.name + ", Dolly " + model.name + ": " + status.failure().message);
  std::map<std::string, int> counts;
  for (const Listed& op : listing.listed) {
    if (op.op == "logProbs") continue;  // not part of generating
    std::string text = format("\"op\": \"%s\", \"bytes\": %.0f, \"flops\": %.0f, \"launches\": [", op.op.c_str(), op.cost.bytes, op.cost.flops);
    for (const Launched& l : op.launches)
      text += format("%s[\"%s\", %llu]", text.back() == '[' ? "" : ", ", l.kernel.c_str(), (unsigned long long)l.grid.x * l.grid.y * l.grid.z);
    counts[text + "]"]++;
  }
  std::string ops;
  for (const auto& [text, count] : counts) ops += format("%s{\"count\": %d, ", ops.empty() ? "" : ", ", count) + text + "}";
  const size_t memory = layoutOf(model.spec, listing.ops(), optionsOf(model.spec, weights, shape)).total();
  lines.print(format("{\"card\": \"%s\", \"model\": \"%s\", \"weights\": \"%s\", \"rows\": %d, \"prompt\": %s, \"memory\": %zu, \"ops\": [",
                     family.card.name.c_str(), model.name, nameOf(weights), shape.rows, shape.prompt ? "true" : "false", memory) +
              ops + "]}");
}

}  // namespace

int planned(const char* pack) {
  cuda::Images images;
  const Status status = cuda::openImages(pack, images);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.failure().message);
    return 1;
  }
  Problems problems;
  std::printf("{\"cards\": [");
  printCards();
  std::printf("],\n\"launches\": [");
  Lines launches, steps;
  for (const Family& family : kFamilies) printLaunches(family, images, pack, launches, problems);
  std::printf("],\n\"steps\": [");
  for (const Family& family : kFamilies) {
    const DType sixteen = family.card.computeCapability >= 80 ? DType::bfloat16 : DType::float16;
    for (const Named& model : kDolly)
      for (DType weights : {sixteen, DType::int8})
        for (const StepShape& shape : {StepShape{1, 1, 512, false}, StepShape{1, 512, 512, true}, StepShape{1, 2048, 2048, true}})
          printStep(family, model, weights, shape, steps, problems);
  }
  std::printf("]}\n");
  return problems.seen.empty() ? 0 : 1;
}

}  // namespace ewe::test

// The reference models of test/fixtures, computed with transformers: hidden states and logits of every row of the batch, each row run without its
// pads.
//
// float32: everything is computed in float32 on both sides; 1e-4 is the promise, and ten times what is expected.
//
// bfloat16, float16: the reference is the float64 result of the stored weights. On the way of one contribution to a hidden state lie, per layer, at
// most kRoundings numbers that are rounded to the 16-bit type: the two norms, the weights and results of query, key and value, the weights of
// attention, its output, the MLP's activation, and the weights of the three products behind; before the first layer the table's row, after the last
// the final norm and the head. Each rounding is an independent relative error of at most `unit`, unit / sqrt(3) in the root mean square if it were
// always the largest possible unit in the last place. A product sums such errors as it sums its terms, so that they stay what they are relative to
// the sum, and a layer adds a contribution that is smaller than the stream. So  rms(error) <= unit / sqrt(3) * sqrt(roundings) * rms(values),  and a
// single element lies within 5 of these deviations (of 10,000 normal numbers one lies beyond once in 170 times).
#include <cstdio>

#include "engine/runner.h"
#include "models.h"

namespace ewe::test {

static constexpr int kRoundings = 14;
static double relativeUnit(DType type) { return type == DType::bfloat16 ? 0x1p-8 : 0x1p-11; }

namespace {

// Copies what it is shown.
struct Kept : Save {
  Run& run;
  DType residualType, type;
  size_t width;
  int rows = 0;
  std::vector<Floats> hidden;

  Kept(Run& run, DType residualType, DType type, int width) : run(run), residualType(residualType), type(type), width(size_t(width)) {}
  Status residual(int index, const void* x) override {
    run.expect(index == int(hidden.size()), "residual streams come in the order of the layers");
    hidden.push_back(run.read(x, size_t(rows) * width, residualType));
    return {};
  }
  Status final(const void* a) override {
    hidden.back() = run.read(a, size_t(rows) * width, type);  // the last entry is after the final norm
    return {};
  }
};

// How far numbers are from their reference.
struct Difference {
  double most = 0, squares = 0, valueSquares = 0;
  size_t count = 0;
  void add(double got, double want) {
    most = std::max(most, std::isnan(got) ? INFINITY : std::fabs(got - want));
    squares += (got - want) * (got - want);
    valueSquares += want * want;
    count++;
  }
  double rms() const { return std::sqrt(squares / double(count)); }
  double valueRms() const { return std::sqrt(valueSquares / double(count)); }
};

}  // namespace

static void golden(Run& run, const std::string& name, DType type) {
  const Checkpoint checkpoint = fixture(name);
  const Safetensors expected("test/fixtures/" + name + "/expected.safetensors");
  const Spec& s = checkpoint.spec;
  const int batch = int(expected.tensors.at("input_ids").shape[0]), columns = int(expected.tensors.at("input_ids").shape[1]);
  const Doubles ids = expected.values("input_ids"), mask = expected.values("attention_mask");

  Threads team(2);
  Runner runner(run.ops);
  const std::atomic<bool> never{false};
  run.check(runner.load(
      checkpoint, {type, 64, 1, 16, 0, 32}, team, [](uint64_t, uint64_t) {}, never));

  const DType residualType = run.ops.residualType(type), activationType = run.ops.activationType(type);
  std::vector<Difference> hidden(size_t(s.layers) + 1);
  Difference logits, torch;
  const Doubles wantLogits = expected.values(type == DType::float32 ? "logits" : "logits_f64"), torchLogits = expected.values("logits_bf16");
  Floats all;
  for (int row = 0; row < batch; row++) {
    Ints tokens;
    const int at = row * columns;
    for (int i = 0; i < columns; i++)
      if (mask[size_t(at + i)] != 0) tokens.push_back(int(ids[size_t(at + i)]));
    const int count = int(tokens.size()), pads = columns - count;
    const std::vector<int> pages = {2, 0, 1, 3};
    Kept kept(run, residualType, activationType, s.hidden);
    kept.rows = count;
    run.check(runner.run({{tokens.data(), 0, count, &pages, true}}, never, &kept));
    Ints rows(tokens.size());
    for (int i = 0; i < count; i++) rows[size_t(i)] = i;
    run.check(runner.head(rows, &kept));
    Floats got(size_t(count) * size_t(s.vocab));
    run.check(runner.logits(count, got.data()));
    all.insert(all.end(), got.begin(), got.end());
    run.expect(kept.hidden.size() == hidden.size(), "one residual stream for each layer, and the last");
    for (size_t i = 0; i < got.size(); i++) {
      const size_t from = size_t(at + pads) * size_t(s.vocab) + i;
      logits.add(got[i], wantLogits[from]);
      torch.add(torchLogits[from], wantLogits[from]);
    }
    for (size_t layer = 0; layer < hidden.size(); layer++) {
      const Doubles want = expected.values("hidden." + std::to_string(layer));
      for (size_t i = 0; i < kept.hidden[layer].size(); i++) {
        hidden[layer].add(kept.hidden[layer][i], want[size_t(at + pads) * size_t(s.hidden) + i]);
      }
      all.insert(all.end(), kept.hidden[layer].begin(), kept.hidden[layer].end());
    }
  }

  auto judge = [&](const Difference& d, int roundings, const std::string& what) {
    char text[200];
    const double deviation = type == DType::float32 ? 0 : relativeUnit(type) * std::sqrt(roundings / 3.0) * d.valueRms();
    const double most = type == DType::float32 ? 1e-4 : 5 * deviation;
    std::snprintf(text, sizeof text, "%s: largest difference %.3g (at most %.3g), rms %.3g (at most %.3g) of values with rms %.3g", what.c_str(),
                  d.most, most, d.rms(), deviation, d.valueRms());
    run.expect(d.count > 0 && d.most <= most && (type == DType::float32 || d.rms() <= deviation), text);
  };
  std::string line = "hidden states";
  for (size_t layer = 0; layer < hidden.size(); layer++) {
    judge(hidden[layer], 1 + kRoundings * int(layer) + (layer + 1 == hidden.size() ? 1 : 0), "hidden." + std::to_string(layer));
    char text[40];
    std::snprintf(text, sizeof text, " %.2g", hidden[layer].most);
    line += text;
  }
  judge(logits, 3 + kRoundings * s.layers, "logits");
  char text[120];
  std::snprintf(text, sizeof text, ", logits %.2g (rms %.2g of %.2g)", logits.most, logits.rms(), logits.valueRms());
  line += text;
  if (type == DType::bfloat16) {
    std::snprintf(text, sizeof text, "; torch's own bfloat16 logits %.2g", torch.most);
    line += text;
  }
  run.figures = line;
  // bfloat16 products round in their own way where the machine has them as an instruction.
  if (type == DType::bfloat16) run.bfloat16Products();
  run.results.push_back({"hidden states and logits", all, type != DType::bfloat16});
}

static Suite suite([](Cases& cases) {
  for (const char* name : {"neox-parallel", "neox-sequential", "neox-no-bias-tied", "neox-head80", "neox-head128", "gptj", "gptj-head256"}) {
    for (DType type : {DType::float32, DType::bfloat16, DType::float16}) {
      const std::string full = std::string("goldens/") + name + " " + nameOf(type);
      cases.test(full, [=](Run& run) { golden(run, name, type); });
      cases.bench(full, [=](Run& run) { golden(run, name, type); });  // prints the table: ewe-cases --bench goldens
    }
  }
});

}  // namespace ewe::test

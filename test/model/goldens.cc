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
//
// int8: held against two references. Against that of the stored weights by the same argument: quantising adds to each weight an independent error,
// even over one scale, so of scale / sqrt(12); relative to the weights of the same row that is one more rounding of  quantum = rms(scale) / sqrt(12)
// / rms(weights)  on the way through each of the six matrices of a layer (queries, keys, values, out, up, down), besides those of table, head and, on
// cards, activations to 16 bits. And against the same pass in double precision over the quantised weights themselves, where only the arithmetic
// differs: with float32 activations by no more than float32 weights may, with 16-bit ones by their roundings.
#include <algorithm>
#include <cstdio>

#include "engine/runner.h"
#include "models.h"
#include "reference.h"

namespace ewe::test {

static constexpr int kRoundings = 14, kMatrices = 6;

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
    hidden.push_back(finite("the residual stream before layer " + std::to_string(index), run.read(x, size_t(rows) * width, residualType)));
    return {};
  }
  Status final(const void* a) override {
    hidden.back() = finite("the final norm", run.read(a, size_t(rows) * width, type));  // the last entry is after it
    return {};
  }

 private:
  Floats finite(const std::string& what, Floats values) {
    const auto bad = std::find_if_not(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
    run.expect(bad == values.end(), what + " has " + std::to_string(bad == values.end() ? 0 : *bad));
    return values;
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

// Hidden states [layers + 1] and logits of all rows of the batch one after the other, without pads.
struct Outputs {
  std::vector<Doubles> hidden;
  Doubles logits;

  explicit Outputs(int layers) : hidden(size_t(layers) + 1) {}
  template <class Values>
  void add(const std::vector<Values>& states, const Values& newLogits) {
    for (size_t i = 0; i < hidden.size(); i++) hidden[i].insert(hidden[i].end(), states.at(i).begin(), states.at(i).end());
    logits.insert(logits.end(), newLogits.begin(), newLogits.end());
  }
};

// By how much outputs may miss a reference: as independent errors of the size of the values, relative to them, of the table, of each layer, and of
// the final norm and the head; or, where that is all that differs, by what float32 arithmetic may.
struct Allowed {
  double table, layer, head;  // squares of relative errors
  bool float32;
};

}  // namespace

static Difference difference(const Doubles& got, const Doubles& want) {
  Difference d;
  for (size_t i = 0; i < want.size(); i++) d.add(got.at(i), want[i]);
  return d;
}

// The figures of it, for the table.
static std::string compare(Run& run, const Outputs& got, const Outputs& want, const Allowed& allowed, const std::string& reference) {
  std::string line = "hidden states";
  auto judge = [&](const std::string& what, const Difference& d, double squares) {
    char text[300];
    const double deviation = std::sqrt(squares) * d.valueRms(), most = allowed.float32 ? 1e-4 : 5 * deviation;
    std::snprintf(text, sizeof text, "%s: largest difference %.3g (at most %.3g), rms %.3g (at most %.3g) of values with rms %.3g (%s)", what.c_str(),
                  d.most, most, d.rms(), deviation, d.valueRms(), reference.c_str());
    run.expect(d.count > 0 && d.most <= most && (allowed.float32 || d.rms() <= deviation), text);
    std::snprintf(text, sizeof text, " %.2g", d.most);
    line += text;
  };
  const int layers = int(got.hidden.size()) - 1;
  for (int i = 0; i <= layers; i++) {
    const double norm = i == layers ? allowed.head / 2 : 0;  // the last is behind the final norm, whose rounding is one of two of the head
    judge("hidden." + std::to_string(i), difference(got.hidden[size_t(i)], want.hidden[size_t(i)]), allowed.table + i * allowed.layer + norm);
  }
  line += ", logits";
  const Difference d = difference(got.logits, want.logits);
  judge("logits", d, allowed.table + layers * allowed.layer + allowed.head);
  char text[200];
  const double most = allowed.float32 ? 1e-4 : 5 * std::sqrt(allowed.table + layers * allowed.layer + allowed.head) * d.valueRms();
  std::snprintf(text, sizeof text, " (at most %.2g; rms %.2g of %.2g; %s)", most, d.rms(), d.valueRms(), reference.c_str());
  return line + text;
}

// The largest quantum of a model's int8 matrices.
static double quantumOf(Run& run, const ewe::Weights& weights) {
  double largest = 0;
  for (const LayerWeights& layer : weights.layers) {
    for (const Matrix& m : {layer.qkv, layer.up, layer.out, layer.down, layer.blockOut}) {
      if (!m.data) continue;
      Floats values(size_t(m.n) * size_t(m.k));
      run.check(run.ops.fetch(m, 0, m.n, values.data(), m.k));
      double scales = 0, squares = 0;
      for (float scale : run.read(m.scale, size_t(m.n), DType::float32)) scales += double(scale) * scale / m.n;
      for (float value : values) squares += double(value) * value / double(values.size());
      largest = std::max(largest, std::sqrt(scales / 12 / squares));
    }
  }
  return largest;
}

static void golden(Run& run, const std::string& name, DType type) {
  if (!run.needs(type)) return;
  const Checkpoint checkpoint = fixture(name);
  const Safetensors expected("test/fixtures/" + name + "/expected.safetensors");
  const Spec& s = checkpoint.spec;
  const int batch = int(expected.tensors.at("input_ids").shape[0]), columns = int(expected.tensors.at("input_ids").shape[1]);
  const Doubles ids = expected.values("input_ids"), mask = expected.values("attention_mask");
  const bool float32 = type == DType::float32, int8 = type == DType::int8;

  Threads team(2);
  Runner runner(run.ops);
  const std::atomic<bool> never{false};
  auto progress = [](uint64_t, uint64_t) {};
  run.check(runner.load(checkpoint, {type, 64, 1, 16, 0, 32}, team, progress, never));
  // The same weights once more, for the pass in double precision.
  const Buffer arena(run, int8 ? weightBytes(s, run.ops, type).total() : 0);
  ewe::Weights weights;
  if (int8) run.check(loadWeights(checkpoint, type, run.ops, team, arena.data(), weights, progress, never));

  const DType activationType = run.ops.activationType(type);
  const Doubles wantLogits = expected.values(float32 ? "logits" : "logits_f64"), torchLogits = expected.values("logits_bf16");
  Outputs got(s.layers), want(s.layers), quantised(s.layers);
  Doubles torch;
  for (int row = 0; row < batch; row++) {
    Ints tokens;
    for (int i = row * columns; i < (row + 1) * columns; i++)
      if (mask[size_t(i)] != 0) tokens.push_back(int(ids[size_t(i)]));
    const int count = int(tokens.size());
    const std::vector<int> pages = {2, 0, 1, 3};
    Kept kept(run, run.ops.residualType(type), activationType, s.hidden);
    kept.rows = count;
    run.check(runner.run({{tokens.data(), 0, count, &pages, true}}, never, &kept));
    Ints rows(tokens.size());
    for (int i = 0; i < count; i++) rows[size_t(i)] = i;
    run.check(runner.head(rows, &kept));
    Floats logits(size_t(count) * size_t(s.vocab));
    run.check(runner.logits(count, logits.data()));
    run.expect(kept.hidden.size() == got.hidden.size(), "one residual stream for each layer, and the last");
    got.add(kept.hidden, logits);

    auto unpadded = [&](const Doubles& all, int width) {  // the pads are on the left
      return Doubles(all.begin() + ((row + 1) * columns - count) * width, all.begin() + (row + 1) * columns * width);
    };
    std::vector<Doubles> states;
    for (int i = 0; i <= s.layers; i++) states.push_back(unpadded(expected.values("hidden." + std::to_string(i)), s.hidden));
    want.add(states, unpadded(wantLogits, s.vocab));
    const Doubles other = unpadded(torchLogits, s.vocab);
    torch.insert(torch.end(), other.begin(), other.end());
    if (int8) {
      const Reference exact = ReferenceModel(run, s, weights)(tokens);
      quantised.add(exact.hidden, exact.logits);
    }
  }

  const DType narrow = unquantisedType(run.ops, type);  // for the float types themselves
  const double unit = narrow == DType::bfloat16 ? 0x1p-8 : 0x1p-11, rounding = unit * unit / 3, quantum = int8 ? quantumOf(run, weights) : 0;
  run.figures = compare(run, got, want, {rounding, kRoundings * rounding + kMatrices * quantum * quantum, 2 * rounding, float32}, "transformers");
  if (int8) {
    const Allowed allowed = {0, kRoundings * rounding, 2 * rounding, activationType == DType::float32};
    run.figures += "; " + compare(run, got, quantised, allowed, "the quantised weights in double precision");
  }
  if (type == DType::bfloat16) {
    char text[60];
    std::snprintf(text, sizeof text, "; torch's own bfloat16 logits %.2g", difference(torch, want.logits).most);
    run.figures += text;
  }
  // bfloat16 products round in their own way where the machine has them as an instruction.
  if (activationType == DType::bfloat16) run.bfloat16Products();
  Floats all(got.logits.begin(), got.logits.end());
  for (const Doubles& states : got.hidden) all.insert(all.end(), states.begin(), states.end());
  run.results.push_back({"hidden states and logits", all, activationType != DType::bfloat16});
}

// The double pass itself reproduces what transformers computes in double precision (its rotary tables are float32, as ours).
static void doublePass(Run& run, const std::string& name) {
  if (!run.needs(DType::float32)) return;
  const Checkpoint checkpoint = fixture(name);
  const Safetensors expected("test/fixtures/" + name + "/expected.safetensors");
  Threads alone(1);
  const Buffer arena(run, weightBytes(checkpoint.spec, run.ops, DType::float32).total());
  ewe::Weights weights;
  const std::atomic<bool> never{false};
  run.check(loadWeights(
      checkpoint, DType::float32, run.ops, alone, arena.data(), weights, [](uint64_t, uint64_t) {}, never));
  Ints tokens;  // the first row has no pads
  for (double id : expected.values("input_ids")) tokens.push_back(int(id));
  tokens.resize(size_t(expected.tensors.at("input_ids").shape[1]));
  const Reference found = ReferenceModel(run, checkpoint.spec, weights)(tokens);
  Doubles want = expected.values("logits_f64");
  want.resize(found.logits.size());
  const Difference d = difference(found.logits, want);
  char text[100];
  std::snprintf(text, sizeof text, "logits: largest difference %.3g of values with rms %.3g", d.most, d.valueRms());
  run.expect(d.count > 0 && d.most <= 1e-6, text);
  run.figures = text;
}

static Suite suite([](Cases& cases) {
  for (const char* name : {"neox-parallel", "neox-sequential", "neox-no-bias-tied", "neox-head80", "neox-head128", "gptj", "gptj-head256"}) {
    cases.test(std::string("goldens/") + name + " in double precision", [=](Run& run) { doublePass(run, name); });
    cases.bench(std::string("goldens/") + name + " in double precision", [=](Run& run) { doublePass(run, name); });
    for (DType type : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
      const std::string full = std::string("goldens/") + name + " " + nameOf(type);
      cases.test(full, [=](Run& run) { golden(run, name, type); });
      cases.bench(full, [=](Run& run) { golden(run, name, type); });  // prints the table: ewe-cases --bench goldens
    }
  }
});

}  // namespace ewe::test

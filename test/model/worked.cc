// The worked examples: models of one layer whose every intermediate number is known in float64 (test/fixtures/worked-examples.json). Each step is run
// through the ops as the model runs it, and compared under its own name, so that a failure says where the arithmetic departs.
//
// The steps form a chain from the embedding to the logits. A number of a step is the result of all roundings before it, each an error of at most
// u = 2^-24 of the largest number on the way; they are independent, so that r of them add up to u sqrt(r) in the root mean square. The bound is 4
// times that: 3 deviations for the largest of a hundred elements, and some room for steps that pass an error on by more than 1 (a norm divides by a
// deviation near 0.5). All bounds are below 1e-4 of numbers near 4, while the smallest mistake of meaning moves them by 1e-3 or more.
#include "model/forward.h"
#include "models.h"

namespace ewe::test {

namespace {

class Example {
 public:
  Example(Run& run, const Json& json)
      : run_(run), json_(json), config_(json["config"]), spec_(specOf(config_)), neox_(config_["model_type"].string == "gpt_neox") {
    rows_ = int(json["input_ids"].items.size());
    attention_ = spec_.heads * spec_.headSize;
    load();
    prepare();
  }

  void everyStep() {
    embedding();
    firstNorm();
    projection();
    rotation();
    keys();
    if (spec_.parallel) {
      parallel();
    } else {
      sequential();
    }
    wholeModel();
  }

 private:
  // Tensor number t, element i: s = sin(0.1 (i + 1)^2 + t); matrices 0.6 s, norms 1 + 0.2 s, biases 0.2 s.
  void load() {
    TempFile file;
    std::map<std::string, StoredTensor> tensors;
    const auto& list = json_["tensors"].items;
    for (size_t t = 0; t < list.size(); t++) {
      const std::string name = list[t]["name"].string;
      const Doubles shape = list[t]["shape"].numbers();
      const bool matrix = shape.size() == 2, norm = !matrix && name.compare(name.size() - 7, 7, ".weight") == 0;
      const int64_t rows = int64_t(shape[0]), columns = matrix ? int64_t(shape[1]) : 1;
      Doubles& values = weights_[name];
      for (int64_t i = 0; i < rows * columns; i++) {
        const double s = std::sin(0.1 * double((i + 1) * (i + 1)) + double(t));
        values.push_back(matrix ? 0.6 * s : norm ? 1 + 0.2 * s : 0.2 * s);
      }
      const Floats floats(values.begin(), values.end());
      tensors[name] = {0, file.size(), DType::float32, rows, columns, columns, 1, name};
      file.append(floats.data(), floats.size() * sizeof(float));
    }
    arena_ = std::make_unique<Buffer>(run_, weightBytes(spec_, run_.ops, DType::float32).total());
    Threads alone(1);
    const std::atomic<bool> never{false};
    run_.check(loadWeights(
        checkpointOf(config_, file.path(), tensors), DType::float32, run_.ops, alone, arena_->data(), model_.weights, [](uint64_t, uint64_t) {},
        never));
  }

  void prepare() {
    const int n = rows_ + 1, d = spec_.headSize;
    run_.check(run_.ops.reserve({32, spec_.hidden + 1, 3 * attention_, spec_.inner, spec_.heads, d, 16, spec_.vocab, DType::float32}));
    step_ = std::make_unique<Step>(run_.step({{0, rows_, {0}}}, 1));
    Ints ids;
    for (double id : json_["input_ids"].numbers()) ids.push_back(int(id));
    run_.check(run_.ops.upload(step_->token.device.data(), ids.data(), ids.size() * sizeof(int)));

    const int pairs = spec_.rotarySize / 2;
    Floats cos(size_t(16) * pairs), sin(cos.size());
    rotaryTables(spec_, 16, cos.data(), sin.data());
    // The product of the fp32 position and frequency has one value; cosine and sine of it may differ by a unit in the last place.
    const Doubles unit(size_t(rows_ * pairs), 0x1p-23);
    run_.near("cos", Floats(cos.begin(), cos.begin() + rows_ * pairs), numbers("cos"), unit);
    run_.near("sin", Floats(sin.begin(), sin.begin() + rows_ * pairs), numbers("sin"), unit);
    add(cos);
    model_.rotary.cos = arrays_.back().floats();
    add(sin);
    model_.rotary.sin = arrays_.back().floats();

    const size_t block = run_.ops.blockBytes(16, d, DType::float32);
    cache_ = std::make_unique<Buffer>(run_, 4 * spec_.heads * block);  // two pages: the model's, and one to ask for keys
    model_.cache = {cache_->data(), DType::float32, 16, spec_.heads, d, (long long)block};
    model_.spec = spec_;
    auto buffer = [&](int width) {
      add(Floats(size_t(n) * size_t(width)));
      return arrays_.back().data();
    };
    activations_ = {buffer(spec_.hidden), buffer(spec_.hidden + 1), buffer(attention_), buffer(attention_ + spec_.inner), nullptr, DType::float32,
                    DType::float32};
    activations_.logits = static_cast<float*>(buffer(spec_.vocab));
  }

  void embedding() {
    Embed e{};
    e.table = model_.weights.embed;
    e.x = activations_.x;
    e.rows = step_->rows;
    e.vocab = spec_.vocab;
    e.width = spec_.hidden;
    e.tableType = model_.weights.embedType;
    e.residualType = DType::float32;
    run_.check(run_.ops.embed(e));
    compare("embedding", read(activations_.x, spec_.hidden), numbers("embedding"), 1);
  }

  void firstNorm() {
    const std::string name = neox_ ? "input_layernorm" : "ln_1";
    norm(activations_.x, layer().norm1Weight, layer().norm1Bias, activations_.a);
    compare(name, read(activations_.a, spec_.hidden), numbers(name), normTerms());
  }

  // Without the epilogue; the examples of GPT-J do not list this step.
  void projection() {
    roundings_ += spec_.hidden + 2;
    if (!neox_) return;
    add(Floats(size_t(rows_) * 3 * size_t(attention_)));
    linear(activations_.a, spec_.hidden, layer().qkv, arrays_.back().data(), 3 * attention_);
    const Floats got = read(arrays_.back().data(), 3 * attention_);
    Floats ordered;
    for (int row = 0; row < rows_; row++)
      for (int head = 0; head < spec_.heads; head++)
        for (int part = 0; part < 3; part++)
          for (int c = 0; c < spec_.headSize; c++)
            ordered.push_back(got[size_t((row * 3 + part) * attention_ + head * spec_.headSize + (part < 2 ? placeInHead(config_, c) : c))]);
    compare("query_key_value", ordered, numbers("query_key_value"), 0);
  }

  void rotation() {
    Linear op = linearOp(activations_.a, spec_.hidden, layer().qkv, nullptr, 0);
    op.qkv = qkv();
    op.step = step_->rows;
    run_.check(run_.ops.linear(op));
    compare("q_rotated", headsInOrder(read(activations_.q, attention_)), numbers("q_rotated"), 5);
  }

  // The device keeps keys in an order of its own, so they are asked for: in a sequence where only position p has a key and a value (1), and the next
  // one has the query e_c, attention gives o = e^s / (e^s + rows), s = scale k[c]. Keys come from the loaded weights with their bias as a further
  // column, for a row of zeros has neither.
  void keys() {
    const int d = spec_.headSize, h = spec_.hidden, n = 3 * attention_, last = rows_;
    const double scale = 1 / std::sqrt(double(d));
    Floats stored(size_t(n) * size_t(h)), bias(size_t(n), 0);
    run_.check(run_.ops.fetch(layer().qkv, 0, n, stored.data(), h));
    if (layer().qkv.bias) run_.check(run_.ops.download(bias.data(), layer().qkv.bias, bias.size() * sizeof(float)));
    const Floats a = read(activations_.a, h);
    Floats got(size_t(rows_) * size_t(attention_));
    for (int p = 0; p < rows_; p++) {
      double square = 0;
      for (int i = 0; i < h; i++) square += double(a[size_t(p * h + i)]) * a[size_t(p * h + i)];
      Floats matrix(size_t(n) * size_t(h + 1)), x(size_t(rows_ + 1) * size_t(h + 1));
      for (int row = attention_; row < n; row++) {
        for (int i = 0; i < h; i++)
          matrix[size_t(row * (h + 1) + i)] = row < 2 * attention_ ? stored[size_t(row * h + i)] : float(a[size_t(p * h + i)] / square);
        if (row < 2 * attention_) matrix[size_t(row * (h + 1) + h)] = bias[size_t(row)];
      }
      for (int i = 0; i < h; i++) x[size_t(p * (h + 1) + i)] = a[size_t(p * h + i)];
      x[size_t(p * (h + 1) + h)] = 1;
      const Weights w = run_.weights(matrix, n, h + 1, DType::float32, {});
      const Array input = run_.array(x, DType::float32), ignored = run_.zeros(size_t(rows_ + 1) * size_t(attention_), DType::float32);
      const Step all = run_.step({{0, rows_ + 1, {1}}}, 1);
      Linear op = linearOp(input.data(), h + 1, w.matrix, nullptr, 0);
      op.rows = rows_ + 1;
      op.qkv = qkv();
      op.qkv.q = ignored.data();
      op.step = all.rows;
      run_.check(run_.ops.linear(op));

      Floats queries(size_t(d) * size_t(attention_));
      for (int c = 0; c < d; c++)
        for (int head = 0; head < spec_.heads; head++) queries[size_t(c * attention_ + head * d + c)] = 1;
      const Array q = run_.array(queries, DType::float32), y = run_.zeros(queries.size(), DType::float32);
      const Step one = run_.step(std::vector<SequenceRows>(size_t(d), SequenceRows{last, 1, {1}}), d);
      run_.check(run_.ops.attend(attendOp(q.data(), y.data(), attention_, one.rows)));
      const Floats o = run_.read(y.data(), queries.size(), DType::float32);
      for (int c = 0; c < d; c++) {
        for (int head = 0; head < spec_.heads; head++) {
          const double share = o[size_t(c * attention_ + head * d)];
          got[size_t(p * attention_ + head * d + c)] = float(std::log(rows_ * share / (1 - share)) / scale);
        }
      }
    }
    // o comes from about 16 roundings; its logarithm makes them 16 / (1 - o), with o below 3/4, and the scale is 1/2 or less.
    compare("k_rotated", headsInOrder(got), numbers("k_rotated"), 16 * 4 * 2);
    roundings_ -= 16 * 4 * 2;  // of the question, not of the key
  }

  void parallel() {
    BlockIn in{};
    in.x = activations_.x;
    in.weight = layer().norm1Weight;
    in.bias = layer().norm1Bias;
    in.weight2 = layer().norm2Weight;
    in.bias2 = layer().norm2Bias;
    in.qkvMatrix = layer().qkv;
    in.up = layer().up;
    in.qkv = qkv();
    in.hidden = wide() + attention_;
    in.step = step_->rows;
    in.width = spec_.hidden;
    in.hiddenStride = attention_ + spec_.inner;
    in.eps = spec_.normEps;
    in.activation = spec_.activation;
    in.residualType = in.type = DType::float32;
    run_.check(run_.ops.blockIn(in));
    compare("q_rotated of the fused step", headsInOrder(read(activations_.q, attention_)), numbers("q_rotated"), 0);
    run_.check(run_.ops.attend(attendOp(activations_.q, activations_.wide, attention_ + spec_.inner, step_->rows)));

    // The last product with one of its two inputs at a time; both biases come with each.
    const Floats both = read(activations_.wide, attention_ + spec_.inner);
    const std::string out = neox_ ? "attention.dense" : "attn.out_proj", up = neox_ ? "mlp.dense_h_to_4h" : "mlp.fc_in",
                      down = neox_ ? "mlp.dense_4h_to_h" : "mlp.fc_out", norm2 = "post_attention_layernorm";
    if (neox_) {
      norm(activations_.x, layer().norm2Weight, layer().norm2Bias, activations_.a);
      compare(norm2, read(activations_.a, spec_.hidden), numbers(norm2), 0);
    }
    compare("attention_output", halfOfBlockOut(both, true), plus(numbers("attention_output"), weight(down + ".bias")), attentionTerms());
    compare("mlp_output", halfOfBlockOut(both, false), plus(numbers("mlp_output"), weight(out + ".bias")), mlpTerms());
  }

  Floats halfOfBlockOut(Floats wide, bool attention) {
    const int width = attention_ + spec_.inner;
    for (int row = 0; row < rows_; row++)
      for (int i = attention ? attention_ : 0; i < (attention ? width : attention_); i++) wide[size_t(row * width + i)] = 0;
    const Array x = run_.array(wide, DType::float32), y = run_.zeros(size_t(rows_) * size_t(spec_.hidden), DType::float32);
    BlockOut out{};
    out.x = x.data();
    out.matrix = layer().blockOut;
    out.y = y.data();
    out.rows = rows_;
    out.residualType = out.type = DType::float32;
    run_.check(run_.ops.blockOut(out));
    return read(y.data(), spec_.hidden);
  }

  void sequential() {
    const int width = attention_ + spec_.inner;
    run_.check(run_.ops.attend(attendOp(activations_.q, activations_.wide, width, step_->rows)));
    linear(activations_.wide, width, layer().out, activations_.a, spec_.hidden);
    compare("attention_output", read(activations_.a, spec_.hidden), numbers("attention_output"), attentionTerms());

    Linear residual = linearOp(activations_.wide, width, layer().out, activations_.x, spec_.hidden);
    residual.residual = activations_.x;
    run_.check(run_.ops.linear(residual));
    norm(activations_.x, layer().norm2Weight, layer().norm2Bias, activations_.a);
    compare("post_attention_layernorm", read(activations_.a, spec_.hidden), numbers("post_attention_layernorm"), normTerms());

    Linear up = linearOp(activations_.a, spec_.hidden, layer().up, wide() + attention_, width);
    up.activation = spec_.activation;
    run_.check(run_.ops.linear(up));
    linear(wide() + attention_, width, layer().down, activations_.a, spec_.hidden);
    compare("mlp_output", read(activations_.a, spec_.hidden), numbers("mlp_output"), mlpTerms());
  }

  struct Kept : Save {
    Example& example;
    explicit Kept(Example& example) : example(example) {}
    Status residual(int index, const void* x) override {
      if (index == 1) example.compare("layer_output", example.read(x, example.spec_.hidden), example.numbers("layer_output"), 2);
      return {};
    }
    Status final(const void* a) override {
      example.compare("final_norm", example.read(a, example.spec_.hidden), example.numbers("final_norm"), example.normTerms());
      return {};
    }
  };

  void wholeModel() {
    const std::atomic<bool> never{false};
    Kept kept(*this);
    run_.check(forward(run_.ops, model_, activations_, {step_->rows, rows_}, never, &kept));
    Ints order;
    for (int i = 0; i < rows_; i++) order.push_back(i);
    const IntArray rows = run_.ints(order);
    run_.check(head(run_.ops, model_, activations_, rows.data(), rows_, nullptr, &kept));
    compare("logits", read(activations_.logits, spec_.vocab), json_["logits"].numbers(), spec_.hidden + 2);
  }

  // ---- roundings of a step

  int normTerms() const { return 2 * spec_.hidden + 6; }
  // A score, its weight, the sum over positions, the projection.
  int attentionTerms() const { return spec_.headSize + 8 + rows_ + attention_ + 2; }
  int mlpTerms() const { return spec_.hidden + 8 + spec_.inner + 2; }

  // ---- references

  Doubles numbers(const std::string& step) const { return json_["steps"][step].numbers(); }

  // Of the layer (or the model), by the end of its name; empty where the model has none.
  Doubles weight(const std::string& name) const {
    for (const auto& [full, values] : weights_)
      if (full.size() > name.size() && full.compare(full.size() - name.size() - 1, std::string::npos, "." + name) == 0) return values;
    return {};
  }

  static Doubles plus(Doubles values, const Doubles& row) {
    for (size_t i = 0; i < values.size() && !row.empty(); i++) values[i] += row[i % row.size()];
    return values;
  }

  // ---- the device

  const LayerWeights& layer() const { return model_.weights.layers[0]; }
  float* wide() const { return static_cast<float*>(activations_.wide); }
  void add(const Floats& values) { arrays_.push_back(run_.array(values, DType::float32)); }
  Floats read(const void* data, int width) const { return run_.read(data, size_t(rows_) * size_t(width), DType::float32); }
  // `terms`: roundings on the way of a number since the step before.
  void compare(const std::string& step, const Floats& got, const Doubles& want, int terms) {
    for (double value : want) most_ = std::max(most_, std::fabs(value));
    roundings_ += terms;
    run_.near(step, got, want, Doubles(want.size(), 4 * kUnit * std::sqrt(double(roundings_)) * most_));
  }

  // Heads with their components in the order of the files.
  Floats headsInOrder(const Floats& heads) const {
    Floats out(heads.size());
    const int d = spec_.headSize;
    for (size_t i = 0; i < heads.size(); i++) out[i] = heads[i / size_t(d) * size_t(d) + size_t(placeInHead(config_, int(i % size_t(d))))];
    return out;
  }

  Qkv qkv() const { return {activations_.q, model_.cache, {model_.rotary.cos, model_.rotary.sin, spec_.rotarySize}, spec_.heads, 0}; }

  void norm(const void* x, const float* gamma, const float* beta, void* y) {
    Norm op{};
    op.x = x;
    op.weight = gamma;
    op.bias = beta;
    op.y = y;
    op.rows = rows_;
    op.width = spec_.hidden;
    op.eps = spec_.normEps;
    op.residualType = op.type = DType::float32;
    run_.check(run_.ops.norm(op));
  }

  Linear linearOp(const void* x, long long xStride, const Matrix& matrix, void* y, long long yStride) const {
    Linear op{};
    op.x = x;
    op.matrix = matrix;
    op.y = y;
    op.rows = rows_;
    op.xStride = xStride;
    op.yStride = yStride;
    op.type = op.outputType = op.residualType = DType::float32;
    return op;
  }
  void linear(const void* x, long long xStride, const Matrix& matrix, void* y, long long yStride) {
    run_.check(run_.ops.linear(linearOp(x, xStride, matrix, y, yStride)));
  }

  Attend attendOp(const void* q, void* y, long long yStride, const Rows& rows) const {
    Attend op{};
    op.q = q;
    op.cache = model_.cache;
    op.y = y;
    op.step = rows;
    op.heads = spec_.heads;
    op.yStride = yStride;
    op.scale = float(1 / std::sqrt(double(spec_.headSize)));
    op.maxPositions = rows_ + 1;
    op.type = DType::float32;
    return op;
  }

  Run& run_;
  const Json& json_;
  const Json& config_;
  const Spec spec_;
  const bool neox_;
  int rows_, attention_;
  std::map<std::string, Doubles> weights_;
  std::unique_ptr<Buffer> arena_, cache_;
  std::unique_ptr<Step> step_;
  std::vector<Array> arrays_;
  Model model_{};
  Activations activations_{};
  double most_ = 0;
  int roundings_ = 0;
};

}  // namespace

static Suite suite([](Cases& cases) {
  for (const char* name : {"gpt_neox", "gptj", "gpt_neox_wide", "gptj_wide"}) {
    cases.test(std::string("worked/") + name, [=](Run& run) {
      const Json all = readJson("test/fixtures/worked-examples.json");
      if (run.needs(DType::float32)) Example(run, all["examples"][name]).everyStep();
    });
  }
});

}  // namespace ewe::test

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <utility>

#include "cases.h"

namespace ewe::test {

const char* nameOf(DType type) {
  static const char* const names[] = {"float32", "bfloat16", "float16", "int8"};
  return names[int(type)];
}

double rounded(double x, DType type) {
  float f = float(x), back = f;
  uint16_t half;
  if (type == DType::float32) return f;
  narrow(&f, 1, type, &half);
  widen(&half, type, 1, &back);
  return back;
}

uint64_t Random::next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double Random::normal() {
  double sum = 0;
  for (int i = 0; i < 12; i++) sum += uniform();
  return sum - 6;
}

static std::string line(const char* format, ...) {
  char text[400];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return text;
}

// ---- device memory

Buffer::Buffer(Run& run, size_t bytes) : run_(&run), data_(nullptr), bytes_(bytes) {
  run.allocated += bytes;
  if (run.allocated > run.most) throw TooLarge();
  run.check(run.ops.allocate(&data_, bytes ? bytes : 1));
}
Buffer::Buffer(Buffer&& other) noexcept : run_(other.run_), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
Buffer::~Buffer() {
  if (data_) run_->ops.release(data_);
}

// ---- building

void Run::check(Status status) {
  if (!status.ok()) throw std::runtime_error(status.failure().message);
}

Array Run::array(const Floats& values, DType type) {
  Array a = {Buffer(*this, values.size() * sizeOf(type)), Floats(values.size()), type};
  if (values.empty()) return a;
  std::vector<char> bytes(a.device.bytes());
  narrow(values.data(), int64_t(values.size()), type, bytes.data());
  widen(bytes.data(), type, int64_t(values.size()), a.host.data());
  check(ops.upload(a.data(), bytes.data(), bytes.size()));
  return a;
}

Array Run::normals(Random& random, size_t count, DType type, double scale, double offset) {
  Floats values(count);
  for (float& value : values) value = float(offset + scale * random.normal());
  return array(values, type);
}

IntArray Run::ints(const Ints& values) {
  IntArray a = {Buffer(*this, values.size() * sizeof(int)), values};
  check(ops.upload(a.device.data(), values.data(), a.device.bytes()));
  return a;
}

Weights Run::weights(const Floats& values, int n, int k, DType type, const Floats& bias) {
  const bool quantised = type == DType::int8;
  Floats stored = values, host(values.size()), scales(quantised ? size_t(n) : 0);
  for (size_t i = 0; i < values.size() && !quantised; i++) host[i] = float(rounded(values[i], type));
  for (size_t row = 0; row < scales.size(); row++) {
    float largest = 0;
    for (size_t i = row * k; i < (row + 1) * k; i++) largest = std::max(largest, std::fabs(values[i]));
    scales[row] = largest > 0 ? float(rounded(largest / 127, DType::bfloat16)) : 1;
    for (size_t i = row * k; i < (row + 1) * k; i++) {
      stored[i] = std::min(127.f, std::max(-127.f, std::nearbyint(values[i] / scales[row])));
      host[i] = scales[row] * stored[i] + 0.f;  // int8 has no -0
    }
  }
  Weights w = {Buffer(*this, ops.matrixBytes(n, k, type)), array(bias, DType::float32), array(scales, DType::float32), std::move(host), {}};
  w.matrix = {w.data.data(), bias.empty() ? nullptr : w.bias.floats(), n, k, type, quantised ? w.scale.floats() : nullptr};
  const int rows = std::max(16, n / 3 / 16 * 16), columns = k / 2 + 1;
  for (int row = 0; row < n; row += rows)
    for (int column = 0; column < k; column += columns)
      check(ops.store(w.matrix, row, column, std::min(rows, n - row), std::min(columns, k - column), stored.data() + size_t(row) * k + column, k));
  return w;
}

Weights Run::normalWeights(Random& random, int n, int k, DType type, bool bias) {
  Floats values(size_t(n) * k), biases(bias ? n : 0);
  for (float& value : values) value = float(random.normal() / std::sqrt(double(k)));
  for (float& value : biases) value = float(random.normal() * 0.5);
  return weights(values, n, k, type, biases);
}

Step Run::step(const std::vector<SequenceRows>& sequences, int promptSequences) {
  Ints token, position, sequence, start = {0}, pages;
  size_t longest = 1;
  for (const auto& s : sequences) longest = std::max(longest, s.pages.size());
  int promptRows = 0;
  for (int i = 0; i < int(sequences.size()); i++) {
    const auto& s = sequences[i];
    for (int j = 0; j < s.count; j++) {
      token.push_back(0);
      position.push_back(s.first + j);
      sequence.push_back(i);
    }
    start.push_back(int(token.size()));
    if (i < promptSequences) promptRows = int(token.size());
    for (size_t j = 0; j < longest; j++) pages.push_back(j < s.pages.size() ? s.pages[j] : -1);
  }
  Step step = {ints(token), ints(position), ints(sequence), ints(start), ints(pages), {}};
  step.rows = {step.token.data(),
               step.position.data(),
               step.sequence.data(),
               step.start.data(),
               step.pages.data(),
               int(token.size()),
               int(sequences.size()),
               int(longest),
               promptRows,
               promptSequences,
               nullptr};
  return step;
}

bool Run::needs(DType weights) {
  if (ops.multiplies(weights)) return true;
  const Buffer x(*this, 64 * 4), y(*this, 64 * 4), matrix(*this, 64 * 64 * 4), scale(*this, 64 * 4);
  Linear l = {};
  l.x = x.data();
  l.matrix = {matrix.data(), nullptr, 64, 64, weights, weights == DType::int8 ? static_cast<const float*>(scale.data()) : nullptr};
  l.y = y.data();
  l.rows = 1;
  l.xStride = l.yStride = 64;
  l.type = weights;
  l.outputType = l.residualType = DType::float32;
  for (l.promptRows = 0; l.promptRows <= 1; l.promptRows++) {
    const Status status = ops.linear(l);
    expect(!status.ok(), line("%s weights were multiplied by a device that says it does not", nameOf(weights)));
    if (!status.ok() && status.failure().kind != Kind::device) failures.push_back(line("refused as another kind: %s", status.failure().message));
  }
  refused = failures.empty();
  return false;
}

bool Run::needsRecordings() {
  if (ops.records()) return true;
  expect(!ops.record(1).ok(), "a device that says it records nothing does");
  refused = failures.empty();
  return false;
}

Floats Run::read(const void* device, size_t count, DType type) {
  std::vector<char> bytes(count * sizeOf(type));
  check(ops.download(bytes.data(), device, bytes.size()));
  Floats values(count);
  widen(bytes.data(), type, int64_t(count), values.data());
  return values;
}

// ---- judging

void Run::near(const std::string& what, const Floats& got, const Doubles& want, const Doubles& bound) {
  results.push_back({what, got, fmaExact_});
  if (got.size() != want.size() || got.size() != bound.size()) {
    failures.push_back(line("%s: %zu values, reference %zu, bounds %zu", what.c_str(), got.size(), want.size(), bound.size()));
    return;
  }
  size_t wrong = 0, worst = 0;
  double most = -1;
  for (size_t i = 0; i < got.size(); i++) {
    const double difference = std::fabs(got[i] - want[i]);
    if (!std::isfinite(want[i]) || !std::isfinite(bound[i])) {
      failures.push_back(line("%s: the reference itself is not finite at %zu: %g, bound %g", what.c_str(), i, want[i], bound[i]));
      return;
    }
    if (difference <= bound[i]) continue;  // false for a NaN too
    wrong++;
    const double excess = std::isnan(difference) ? INFINITY : difference / bound[i];
    if (excess > most) {
      most = excess;
      worst = i;
    }
  }
  compared += long(got.size());
  if (wrong)
    failures.push_back(line("%s: %zu of %zu beyond the bound; worst at %zu: %.9g, reference %.9g, difference %.3g, bound %.3g", what.c_str(), wrong,
                            got.size(), worst, got[worst], want[worst], std::fabs(got[worst] - want[worst]), bound[worst]));
}

void Run::same(const std::string& what, const Floats& got, const Floats& want) {
  compared += long(got.size());
  if (got.size() != want.size()) {
    failures.push_back(line("%s: %zu values against %zu", what.c_str(), got.size(), want.size()));
    return;
  }
  size_t wrong = 0, first = 0;
  for (size_t i = got.size(); i-- > 0;) {
    if (std::memcmp(&got[i], &want[i], sizeof(float)) == 0) continue;
    wrong++;
    first = i;
  }
  if (wrong)
    failures.push_back(
        line("%s: %zu of %zu differ in bits; first at %zu: %.9g against %.9g", what.c_str(), wrong, got.size(), first, got[first], want[first]));
}

void Run::expect(bool condition, const std::string& what) {
  compared++;
  if (!condition) failures.push_back(what);
}

// ---- measuring

// A unit is what is timed at once: on the CPU a call, on a card so many calls, replayed, that launching and waiting are no part of it.
void Run::measure(Cost cost, int copies, const std::function<Status(int copy)>& call) {
  using Clock = std::chrono::steady_clock;
  auto seconds = [](Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); };
  if (!bench_) copies = 1;
  for (int copy = 0; copy < copies; copy++) check(call(copy));
  compared++;
  if (!bench_) return;
  const Buffer mark(*this, 4);
  int word, copy = 0, calls = 1;
  std::function<void()> unit = [&] {
    check(call(copy));
    copy = (copy + 1) % copies;
  };
  if (ops.records()) {
    calls = small() ? copies : copies * std::max(1, 100 / copies);
    check(ops.record(1));
    for (int i = 0; i < calls; i++) check(call(i % copies));
    check(ops.endRecord());
    check(ops.download(&word, mark.data(), 4));
    unit = [&] {
      check(ops.replay(1));
      check(ops.download(&word, mark.data(), 4));  // comes back when all before it is done
    };
  }
  std::vector<double> times;
  const std::clock_t used = std::clock();
  for (const auto begin = Clock::now(); times.empty() || (!small() && (times.size() < 5 || (seconds(begin) < 0.6 && times.size() < 2000)));) {
    const auto start = Clock::now();
    unit();
    times.push_back(seconds(start) / calls);
  }
  const double processor = double(std::clock() - used) / CLOCKS_PER_SEC / double(times.size()) / calls;
  std::sort(times.begin(), times.end());
  const double best = times[0];
  const double median = times[times.size() / 2];
  measured.push_back({"", median, cost});
  figures = line("median %.1f us, %.1f GB/s, %.1f GFLOP/s; best %.1f us, %.1f GB/s, %.1f GFLOP/s; %.1f us of processor time; %zu calls", median * 1e6,
                 cost.bytes / median * 1e-9, cost.flops / median * 1e-9, best * 1e6, cost.bytes / best * 1e-9, cost.flops / best * 1e-9,
                 processor * 1e6, times.size() * size_t(calls));
}

// ---- references

double activated(double x, Activation activation) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::gelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::geluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::quickGelu: return x / (1 + std::exp(-1.702 * x));
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::geluClipped: return std::min(10.0, std::max(-10.0, activated(x, Activation::gelu)));
  }
  return NAN;
}

double slopeOf(Activation activation) { return activation == Activation::none || activation == Activation::relu ? 1 : 1.15; }

double activationError(double x, Activation activation) {
  return activation == Activation::none || activation == Activation::relu ? 0 : 2e-7 * std::max(1.0, std::fabs(x));
}

const char* nameOf(Activation activation) {
  static const char* const names[] = {"none", "gelu", "gelu tanh", "quick gelu", "silu", "relu", "gelu clipped"};
  return names[int(activation)];
}

}  // namespace ewe::test

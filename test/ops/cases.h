// The harness of the op cases: a case builds an op, runs it through Ops (all it knows of the device) and compares with a naive reference in double
// precision. main.cc runs each case on every instruction set and with several numbers of threads, whose results must have the same bits.
//
// A file of cases registers them:  static Suite suite([](Cases& cases) { cases.test("norm/float32 3x64", [](Run& run) { ... }); });
#pragma once
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ops/convert.h"
#include "ops/ops.h"

namespace ewe::test {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Ints = std::vector<int>;

constexpr double kUnit = 0x1p-24;         // of float32: half a unit in the last place of 1
constexpr double kBfloat16Unit = 0x1p-8;  // of bfloat16: half a unit in the last place of 1
constexpr double unitOf(DType type) { return type == DType::float32 ? kUnit : type == DType::bfloat16 ? kBfloat16Unit : 0x1p-11; }
const char* nameOf(DType type);
double rounded(double x, DType type);  // to float32, then to type, as all conversions here do

// The same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next();
  double uniform() { return double(next() >> 11) * 0x1p-53; }
  double normal();  // a sum of uniforms: close enough, and the same on every machine
  int below(int n) { return int(next() % uint64_t(n)); }

 private:
  uint64_t state_;
};

class Run;

// What a bench took, and for what. `what` tells apart the several times of one case.
struct Measured {
  std::string what;
  double seconds;  // the median of a call
  Cost cost;
};

// Device memory that goes away with its owner.
class Buffer {
 public:
  Buffer(Run& run, size_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  ~Buffer();
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Run* run_;
  void* data_;
  size_t bytes_;
};

// An array of `type` on the device and its numbers, rounded to the type, on the host.
struct Array {
  Buffer device;
  Floats host;
  DType type;
  void* data() const { return device.data(); }
  const float* floats() const { return static_cast<const float*>(device.data()); }
};

struct IntArray {
  Buffer device;
  Ints host;
  const int* data() const { return static_cast<const int*>(device.data()); }
};

struct Weights {
  Buffer data;
  Array bias, scale;
  Floats host;  // [n, k], rounded to the type
  Matrix matrix;
  double at(int row, int column) const { return host[size_t(row) * matrix.k + column]; }
};

// The rows of a step, each sequence with its pages.
struct Step {
  IntArray token, position, sequence, start, pages;
  Rows rows;
};
struct SequenceRows {
  int first, count;  // positions
  Ints pages;
};

struct Result {
  std::string what;
  Floats values;
  bool fmaExact;
};

// Thrown by a case that takes more memory than it may (ewe-cases --small).
struct TooLarge {};

class Run {
 public:
  Run(Ops& device, bool bench) : ops(device), bench_(bench) {}
  Ops& ops;

  // ---- building
  void check(Status status);  // a failure ends the case
  Array array(const Floats& values, DType type);
  Array normals(Random& random, size_t count, DType type, double scale = 1, double offset = 0);
  Array zeros(size_t count, DType type) { return array(Floats(count), type); }
  IntArray ints(const Ints& values);
  // Stored in pieces. Those of int8 are quantised with a scale of 8 bits for each row, so that its products with whole numbers are exact in fp32.
  Weights weights(const Floats& values, int n, int k, DType type, const Floats& bias);
  Weights normalWeights(Random& random, int n, int k, DType type, bool bias);
  Step step(const std::vector<SequenceRows>& sequences, int promptSequences);
  Floats read(const void* device, size_t count, DType type);

  // Whether the device multiplies matrices of this dtype. Where it does not, the case ends here: what is left to see is that it refuses such a
  // product with a typed error, and this looks.
  bool needs(DType weights);
  // Whether the device records steps, which is what counts of live rows are for. Where it does not, the case ends here.
  bool needsRecordings();

  // ---- judging: each comparison is also kept, to be held against the other runs of the case
  void near(const std::string& what, const Floats& got, const Doubles& want, const Doubles& bound);
  void same(const std::string& what, const Floats& got, const Floats& want);  // bit for bit
  void expect(bool condition, const std::string& what);
  // From here on the results of the sets that have fma may differ (the product of bfloat16 pairs rounds in its own way).
  void bfloat16Products() { fmaExact_ = false; }

  // ---- measuring: call(copy) for copies 0 .. copies - 1 in turn
  void measure(Cost cost, int copies, const std::function<Status(int copy)>& call);

  std::vector<std::string> failures;
  std::vector<Result> results;
  long compared = 0;
  int rounds = 2;  // of cases that try random mixes (ewe-cases --rounds), from `seed` on
  uint64_t seed = 1;
  bool large = false;    // more than `most`
  bool refused = false;  // the device refused what the case needs, as it should
  bool lost = false;     // the case ended with the device unusable, as it should
  size_t allocated = 0;  // bytes, in all
  size_t most = ~size_t(0);
  bool small() const { return most != ~size_t(0); }  // a bench of which only is asked that it runs
  std::vector<Measured> measured;
  std::string figures;  // what measure() found

 private:
  bool bench_;
  bool fmaExact_ = true;
};

struct Case {
  std::string name;
  std::function<void(Run&)> body;
  bool bench, once;
};

class Cases {
 public:
  void test(const std::string& name, std::function<void(Run&)> body) { all.push_back({name, std::move(body), false, false}); }
  // Of what no device takes part in: one way to run it is enough.
  void once(const std::string& name, std::function<void(Run&)> body) { all.push_back({name, std::move(body), false, true}); }
  void bench(const std::string& name, std::function<void(Run&)> body) { all.push_back({name, std::move(body), true, false}); }
  std::vector<Case> all;
};

struct Suite {
  explicit Suite(void (*fill)(Cases&));
};

// ewe-cases --draws: random rows are drawn the same on the device of a run, on the CPU device and by the definition.
void drawRows(Run& run, Ops& cpu, long count, unsigned seed);

// ---- references shared by several files

double activated(double x, Activation activation);
// Largest slope of an activation, and the error of its evaluation at x.
double slopeOf(Activation activation);
double activationError(double x, Activation activation);
const char* nameOf(Activation activation);

// Numbers that a correct device may miss by `error`.
struct Bounded {
  Doubles value, error;
  void push(double v, double e) {
    value.push_back(v);
    error.push_back(e);
  }
};

// Causal attention of one sequence: q [rows, heads * headSize] for positions first, first + 1, ...; keys and values [positions, kvHeads * headSize].
struct AttentionShape {
  int heads, kvHeads, headSize;
  DType type;
};
void attentionReference(const AttentionShape& s, int first, int rows, const Bounded& q, const Bounded& keys, const Bounded& values, Bounded& out);

}  // namespace ewe::test

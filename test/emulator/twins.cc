// twins                    lists the cases, one a line
// twins NAME [SETTINGS]    runs one on the emulator: exit status 0, or 1 with what was wrong
// twins --card CUBIN PATH  runs all of that path on the first card, from an image of twins.cu: the emulator does what a card does
//
// What the functions of the seam come to, foreseen from their definitions in the PTX ISA.
#include "test/emulator/twins.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>

#include "test/emulator/direct.h"

namespace ewe::test {

using kernels::Twins;
using Words = std::vector<unsigned>;

static void expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}
static void same(unsigned long long got, unsigned long long want, const std::string& what) {
  char text[100];
  std::snprintf(text, sizeof text, ": %llx instead of %llx", got, want);
  expect(got == want, what + text);
}

static unsigned bitsOf(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
static float floatOf(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// A 16-bit number of so many bits of mantissa (without the leading one), from the definition: to nearest, ties to even; one NaN.
static unsigned narrow(double x, int mantissa, int exponentBits) {
  const int bias = (1 << (exponentBits - 1)) - 1, sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return 0x7FFF;
  const double size = std::fabs(x);
  int exponent = size > 0 && !std::isinf(size) ? std::ilogb(size) : -bias;
  exponent = exponent < 1 - bias ? 1 - bias : exponent;
  const double steps = std::nearbyint(std::ldexp(size, mantissa - exponent));  // in units of the last place
  const double most = std::ldexp(2 - std::ldexp(1, -mantissa), bias);
  if (std::isinf(size) || std::ldexp(steps, exponent - mantissa) > most) return unsigned(sign | ((1 << exponentBits) - 1) << mantissa);
  const auto whole = unsigned(steps);  // a carry out of the mantissa raises the exponent by itself
  return unsigned(sign) | (whole >= 1u << mantissa ? unsigned(exponent + bias - 1) * (1u << mantissa) + whole : whole);
}
static unsigned halfOf(double x) { return narrow(x, 10, 5); }
static unsigned bfloatOf(double x) { return narrow(x, 7, 8); }
static double wide(unsigned bits, int mantissa, int exponentBits) {
  const int exponent = int(bits >> mantissa & ((1u << exponentBits) - 1)), bias = (1 << (exponentBits - 1)) - 1;
  const unsigned fraction = bits & ((1u << mantissa) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponentBits) - 1) return fraction ? NAN : sign * INFINITY;
  return sign * std::ldexp(fraction + (exponent ? 1u << mantissa : 0), (exponent ? exponent : 1) - bias - mantissa);
}
static double fromHalf(unsigned bits) { return wide(bits & 0xFFFF, 10, 5); }
static double fromBfloat(unsigned bits) { return wide(bits & 0xFFFF, 7, 8); }

static uint64_t scramble(uint64_t i) {
  i = (i + 1) * 0x9e3779b97f4a7c15u;
  i = (i ^ i >> 31) * 0xbf58476d1ce4e5b9u;
  return i ^ i >> 29;
}

// ---- The cases

static void lanes(Direct& card) {
  constexpr int threads = 64, blocks = 12, results = kernels::kLaneResults;
  const auto out = card.make<unsigned long long>(threads * blocks * results);
  card.launch("twins_lanes", {3, 2, 2}, threads, 64, Twins{nullptr, nullptr, nullptr, out.data, 0});
  const auto got = card.download(out);
  for (int block = 0; block < blocks; block++) {
    for (int t = 0; t < threads; t++) {
      const int lane = t % 32, base = t - lane;
      auto wideOf = [](int thread) { return 0x100000001ull * unsigned(thread + 7); };
      auto pair = [](unsigned long long low, unsigned long long high) { return low | high << 32; };
      unsigned ballot = 0;
      for (int i = 0; i < 32; i++) ballot |= unsigned((base + i) % 3 == 0) << i;
      unsigned long long total = 0;
      for (int i = 0; i < threads; i++) total += wideOf(i);
      const unsigned long long want[results] = {pair(base + (lane ^ 5), base + (lane ^ 16)),
                                                wideOf(base + (lane ^ 1)),
                                                pair(bitsOf(float(base + (lane ^ 31))), bitsOf(float(base + 9))),
                                                pair(base + (lane * 7 & 31), base + 31 - lane),
                                                wideOf(base + 30),
                                                wideOf(lane < 3 ? t : t - 3),
                                                pair(lane < 16 ? t : t - 16, ballot),
                                                pair(64 * 63 / 2, 63 * 3),
                                                5 | total << 32,
                                                wideOf(63),
                                                unsigned(lane) | unsigned(t / 32) << 8 | 2u << 16 | 32u << 24,
                                                unsigned(41 + block)};
      for (int i = 0; i < results; i++)
        same(got[size_t((block * threads + t) * results + i)], want[i],
             "block " + std::to_string(block) + ", thread " + std::to_string(t) + ", result " + std::to_string(i));
    }
  }
}

static void numbers(Direct& card) {
  constexpr int results = kernels::kNumberResults, count = 65536;
  std::vector<float> a = {0.0f,      -0.0f,        1.0f,       -1.0f,      INFINITY,  -INFINITY, NAN,
                          65504.0f,  65519.99f,    65520.0f,   -65520.0f,  0x1p-24f,  0x1p-25f,  0x1.8p-25f,
                          -0x1p-14f, 0x1.ffcp-15f, 0x1.004p0f, 0x1.00cp0f, 0x1.01p0f, 0x1.03p0f, 3.402823466e38f,
                          0x1p-126f, 0x1p-149f,    1e-40f,     -126.5f,    -127.0f,   127.5f,    10.25f};
  while (a.size() < count) {
    const uint64_t bits = scramble(a.size());
    a.push_back(bits & 1 ? floatOf(unsigned(bits >> 32))
                         : std::ldexp(float(int(bits >> 40)) / 0x1p23f, int(bits >> 2 & 31) - 16));  // any float, or one in fp16's range
  }
  std::vector<float> b(a.rbegin(), a.rend());
  const auto out = card.make<unsigned>(size_t(count) * results);
  card.launch("twins_numbers", {count / 64}, 64, 0, Twins{card.upload(a).data, card.upload(b).data, nullptr, out.data, count});
  const auto got = card.download(out);
  const bool has16 = card.limits().path >= 800;
  for (int i = 0; i < count; i++) {
    const float x = a[size_t(i)], y = b[size_t(i)];
    const unsigned* r = got.data() + size_t(i) * results;
    const std::string at = "x = " + std::to_string(x) + ", y = " + std::to_string(y) + ", result ";
    auto number = [&](int index, double want) {  // as fp32; NaNs are alike
      if (std::isnan(want)) return expect(std::isnan(floatOf(r[index])), at + std::to_string(index) + ": a number instead of NaN");
      same(r[index], bitsOf(float(want)), at + std::to_string(index));
    };
    auto clamp = [](float v) { return v > 65504 ? 65504 : v < -65504 ? -65504 : v; };
    same(r[0], halfOf(x), at + "0");
    number(1, fromHalf(unsigned(i)));
    same(r[2], halfOf(x) | halfOf(y) << 16, at + "2");
    same(r[3], has16 ? bfloatOf(x) | bfloatOf(y) << 16 : 0, at + "3");
    number(4, fromBfloat(unsigned(i)));
    const double hx = fromHalf(halfOf(x)), hy = fromHalf(halfOf(y));
    same(r[5], halfOf(hx - hy) | halfOf(hy - hx) << 16, at + "5");
    unsigned picked = 0;
    for (int byte = 0; byte < 4; byte++) {
      const unsigned nibble = unsigned(i) * 0x1357u >> 4 * byte & 15;
      const unsigned value = (nibble & 4 ? bitsOf(y) : bitsOf(x)) >> 8 * (nibble & 3) & 255;
      picked |= (nibble & 8 ? (value & 128 ? 255u : 0u) : value) << 8 * byte;
    }
    same(r[6], picked, at + "6");
    const int ones = __builtin_popcount(bitsOf(x)), zeros = bitsOf(x) ? __builtin_clz(bitsOf(x)) : 32;
    same(r[7], unsigned(ones) | unsigned(zeros) << 8 | 32u << 16, at + "7");
    if (x != 0 || y != 0) {  // which zero is larger is not said
      number(8, std::fmax(x, y));
      number(9, std::fmin(x, y));
    }
    number(10, std::fma(x, y, 1.0f));
    const volatile float rounded = x * y;
    number(11, rounded + 1.0f);
    const volatile float root = std::sqrt(std::fabs(x));
    number(12, 1.0f / root);
    const double power = std::exp2(double(x));
    if (std::isnan(power)) {
      number(13, power);
    } else if (power < 0x1p-126 || std::isinf(float(power))) {
      number(13, power < 1 ? 0.0 : INFINITY);
    } else if (x == 0) {
      number(13, 1);
    } else {
      expect(std::fabs(floatOf(r[13]) - power) <= 4 * std::ldexp(power, -24) + (std::fabs(x) < 0x1p-126f ? power : 0),
             at + "13: " + std::to_string(floatOf(r[13])));
    }
    number(14, std::isnan(x) ? NAN : clamp(x));
    same(r[15], halfOf(std::isnan(x) ? x : clamp(x)) | halfOf(std::isnan(y) ? y : clamp(y)) << 16, at + "15");
  }
}

static void copies(Direct& card) {
  constexpr int count = 200;
  Words a(count * 4);
  for (size_t i = 0; i < a.size(); i++) a[i] = unsigned(scramble(i));
  std::vector<int> valid(count);
  for (int i = 0; i < count; i++) valid[size_t(i)] = i % 3;
  const auto out = card.make<unsigned>(2 * count * 4);
  card.launch("twins_copies", {}, 64, count * 16, Twins{card.upload(a).data, card.upload(valid).data, nullptr, out.data, count});
  const Words got = card.download(out);
  for (size_t i = 0; i < count * 4; i++) {
    same(got[i], valid[i / 4] ? a[i] : 0, "word " + std::to_string(i));
    same(got[count * 4 + i], 0, "two loads of word " + std::to_string(i));
  }
}

static void matrices(Direct& card) {
  std::vector<int> rows(32);
  for (int i = 0; i < 32; i++) rows[size_t(i)] = int(scramble(uint64_t(i)) % 64);
  const auto out = card.make<unsigned>(32 * 8);
  card.launch("twins_matrices", {}, 32, 1024, Twins{card.upload(rows).data, nullptr, nullptr, out.data, 0});
  const Words got = card.download(out);
  for (int lane = 0; lane < 32; lane++) {
    for (int m = 0; m < 4; m++) {
      auto element = [&](int row, int column) { return unsigned(rows[size_t(8 * m + row)] * 8 + column); };
      const int slow = lane / 4, fast = lane % 4 * 2;
      same(got[size_t(lane * 8 + m)], element(slow, fast) | element(slow, fast + 1) << 16,
           "lane " + std::to_string(lane) + ", matrix " + std::to_string(m));
      same(got[size_t(lane * 8 + 4 + m)], element(fast, slow) | element(fast + 1, slow) << 16, "transposed, lane " + std::to_string(lane));
    }
  }
}

// Where an element lies: of which lane, and which of its numbers. From the PTX ISA's figures of m16n8k16 and of m8n8k4.
struct Place {
  int lane, index;
};
static Place placeOfA(int row, int k) { return {row % 8 * 4 + k % 8 / 2, k % 2 + row / 8 * 2 + k / 8 * 4}; }
static Place placeOfB(int k, int column) { return {column * 4 + k % 8 / 2, k % 2 + k / 8 * 2}; }
static Place placeOfC(int row, int column) { return {row % 8 * 4 + column / 2, column % 2 + row / 8 * 2}; }

// Whole numbers: every sum of products is exact, in whatever order a card adds.
static int wholeAt(uint64_t i) { return int(scramble(i) % 31) - 15; }

static void put(Words& words, Place place, int perLane, unsigned bits) {
  words[size_t(place.lane * perLane / 2 + place.index / 2)] |= bits << 16 * (place.index % 2);
}

static void product(Direct& card, const char* name, unsigned (*round)(double)) {
  Words a(32 * 4), b(32 * 2);
  std::vector<float> c(32 * 4);
  for (int i = 0; i < 256; i++) put(a, placeOfA(i / 16, i % 16), 8, round(wholeAt(uint64_t(i))));
  for (int i = 0; i < 128; i++) put(b, placeOfB(i / 8, i % 8), 4, round(wholeAt(uint64_t(1000 + i))));
  for (int i = 0; i < 128; i++) c[size_t(placeOfC(i / 8, i % 8).lane * 4 + placeOfC(i / 8, i % 8).index)] = float(wholeAt(uint64_t(2000 + i)));
  const auto out = card.make<float>(128);
  card.launch(name, {}, 32, 0, Twins{card.upload(a).data, card.upload(b).data, card.upload(c).data, out.data, 0});
  const auto got = card.download(out);
  for (int i = 0; i < 128; i++) {
    int want = wholeAt(uint64_t(2000 + i));
    for (int k = 0; k < 16; k++) want += wholeAt(uint64_t(i / 8 * 16 + k)) * wholeAt(uint64_t(1000 + k * 8 + i % 8));
    const Place place = placeOfC(i / 8, i % 8);
    same(bitsOf(got[size_t(place.lane * 4 + place.index)]), bitsOf(float(want)),
         "row " + std::to_string(i / 8) + ", column " + std::to_string(i % 8));
  }
}

// Quad-pair q of m8n8k4: the upper rows of a (the left columns of b, if its columns are kept) in lanes 4q to 4q + 3, the others 16 lanes on.
static void productOfQuads(Direct& card, const char* name, bool rowB) {
  Words a(32 * 2), b(32 * 2);
  std::vector<float> c(32 * 8);
  auto laneOf = [](int quad, int i) { return 4 * quad + i % 4 + 16 * (i / 4); };
  auto placeOf = [&](int quad, int row, int column) {
    return Place{4 * quad + (row & 1) + (column & 2) + 16 * (row / 4), (column & 1) + (row & 2) + (column & 4)};
  };
  auto valueA = [](int quad, int row, int k) { return wholeAt(uint64_t(quad * 32 + row * 4 + k)); };
  auto valueB = [](int quad, int k, int column) { return wholeAt(uint64_t(1000 + quad * 32 + k * 8 + column)); };
  for (int quad = 0; quad < 4; quad++) {
    for (int i = 0; i < 8; i++) {
      for (int k = 0; k < 4; k++) {
        put(a, {laneOf(quad, i), k}, 4, halfOf(valueA(quad, i, k)));
        put(b, rowB ? Place{laneOf(quad, k + i / 4 * 4), i % 4} : Place{laneOf(quad, i), k}, 4, halfOf(valueB(quad, k, i)));
      }
      for (int j = 0; j < 8; j++)
        c[size_t(placeOf(quad, i, j).lane * 8 + placeOf(quad, i, j).index)] = float(wholeAt(uint64_t(2000 + quad * 64 + i * 8 + j)));
    }
  }
  const auto out = card.make<float>(256);
  card.launch(name, {}, 32, 0, Twins{card.upload(a).data, card.upload(b).data, card.upload(c).data, out.data, 0});
  const auto got = card.download(out);
  for (int i = 0; i < 256; i++) {
    const int quad = i / 64, row = i / 8 % 8, column = i % 8;
    int want = wholeAt(uint64_t(2000 + i));
    for (int k = 0; k < 4; k++) want += valueA(quad, row, k) * valueB(quad, k, column);
    const Place place = placeOf(quad, row, column);
    same(bitsOf(got[size_t(place.lane * 8 + place.index)]), bitsOf(float(want)),
         "quad " + std::to_string(quad) + ", row " + std::to_string(row) + ", column " + std::to_string(column));
  }
}

struct Case {
  const char* name;
  int from, to;  // paths that have it
  void (*body)(Direct&);
};

static const Case cases[] = {
    {"lanes, warps, atomics, named barriers", 700, 900, lanes},
    {"conversions and arithmetic", 700, 900, numbers},
    {"copies to shared memory, and zeros", 700, 900, copies},
    {"matrices from shared memory", 750, 900, matrices},
    {"m16n8k16 of fp16", 750, 900, [](Direct& card) { product(card, "twins_product_f16", halfOf); }},
    {"m16n8k16 of bf16", 800, 900, [](Direct& card) { product(card, "twins_product_bf16", bfloatOf); }},
    {"m8n8k4 of fp16, b by columns", 700, 700, [](Direct& card) { productOfQuads(card, "twins_product_columns", false); }},
    {"m8n8k4 of fp16, b by rows", 700, 700, [](Direct& card) { productOfQuads(card, "twins_product_rows", true); }},
};

static int run(const Case& one, const std::function<Direct()>& open) {
  try {
    Direct card = open();
    one.body(card);
  } catch (const std::exception& error) {
    std::printf("%s: %s\n", one.name, error.what());
    return 1;
  }
  return 0;
}

// With what path the image was compiled is for the caller to say: a card takes that of older ones too.
static int onCard(const char* file, int path) {
  std::ifstream in(file, std::ios::binary);
  const std::string image(std::istreambuf_iterator<char>(in), {});
  cuda::Driver* driver = nullptr;
  check(cuda::openDriver(&driver));
  int failed = 0, count = 0;
  for (const Case& one : cases) {
    if (path < one.from || path > one.to) continue;
    count++;
    failed += run(one, [&] {
      Direct card(*driver);
      check(card.session->load({"twins", image.data(), image.size()}));
      card.card.computeCapability = path / 10;
      return card;
    });
  }
  std::printf("path %d on a card: %d of %d cases are wrong\n", path, failed, count);
  return failed || !count;
}

static int main(int count, char** arguments) {
  if (count == 4 && !std::strcmp(arguments[1], "--card")) return onCard(arguments[2], std::atoi(arguments[3]));
  const int path = Direct().limits().path;
  for (const Case& one : cases) {
    if (path < one.from || path > one.to) continue;
    if (count < 2) std::printf("%s\n", one.name);
    else if (!std::strcmp(one.name, arguments[1])) return run(one, [&] { return Direct(count > 2 ? arguments[2] : ""); });
  }
  return count < 2 ? 0 : 2;
}

}  // namespace ewe::test

int main(int count, char** arguments) { return ewe::test::main(count, arguments); }

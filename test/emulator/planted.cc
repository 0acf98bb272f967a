// planted KERNEL FAULT SETTINGS...: runs a kernel of planted.cu (or addresses.cu) with one fault, in one way or more, and prints for each "right",
// "wrong: ..." or "failed: ...". test/emulator.ts says which it must be; in a sanitizer's build the sanitizer speaks too.
#include <cmath>
#include <cstring>
#include <functional>
#include <map>

#include "test/emulator/direct.h"
#include "test/emulator/planted.h"

namespace ewe::test {

using kernels::Planted;

static float numberAt(size_t i) { return float(int(unsigned(i) * 2654435761u >> 24) % 17 - 8) / 8; }  // exact in fp16, and so are sums of products

static unsigned short halfOf(float x) {  // of a multiple of 1/8 below 2
  if (x == 0) return 0;
  int exponent = 0;
  const float mantissa = std::frexp(std::fabs(x), &exponent);
  return (unsigned short)((x < 0 ? 0x8000 : 0) | (exponent + 14) << 10 | (int(mantissa * 2048) & 0x3FF));
}

static std::string compare(const std::vector<float>& got, const std::vector<float>& want, float bound) {
  for (size_t i = 0; i < want.size(); i++) {
    char text[100];
    std::snprintf(text, sizeof text, "wrong: %g instead of %g at %zu", got[i], want[i], i);
    if (!(std::fabs(got[i] - want[i]) <= bound)) return text;
  }
  return "right";
}

static std::string gemm(Direct& card, int fault) {
  constexpr int size = kernels::kTile, k = 5 * kernels::kTileK;
  std::vector<float> a(size * k), b(size * k), want(size * size);
  for (size_t i = 0; i < a.size(); i++) {
    a[i] = numberAt(i);
    b[i] = numberAt(i + 12345);
  }
  std::vector<unsigned short> halfA(a.size()), halfB(b.size());
  for (size_t i = 0; i < a.size(); i++) {
    halfA[i] = halfOf(a[i]);
    halfB[i] = halfOf(b[i]);
  }
  for (int i = 0; i < size; i++)
    for (int j = 0; j < size; j++)
      for (int at = 0; at < k; at++) want[size_t(i * size + j)] += a[size_t(i * k + at)] * b[size_t(j * k + at)];
  const auto out = card.make<float>(want.size());
  card.launch("planted_gemm", {}, 128, 2 * 2 * kernels::kTile * kernels::kTileK * 2,
              Planted{card.upload(halfA).data, card.upload(halfB).data, out.data, 0, k, fault, 0});
  const auto counts = card.statistics("planted_gemm");
  std::printf("products %lld, matrix loads %lld, conflicts %lld, copies %lld\n", counts.products, counts.matrixLoads, counts.conflicts,
              counts.asyncCopies);
  return compare(card.download(out), want, 0);
}

static std::string reduce(Direct& card, int fault) {
  constexpr int rows = 12, width = 300;
  std::vector<float> a(rows * width), want(rows);
  for (size_t i = 0; i < a.size(); i++) want[i / width] += a[i] = numberAt(i);
  const auto out = card.make<float>(rows);
  card.launch("planted_reduce", {}, 128, 16, Planted{card.upload(a).data, nullptr, out.data, rows, width, fault, 0});
  return compare(card.download(out), want, 0);
}

static std::string attend(Direct& card, int fault) {
  constexpr int queries = kernels::kQueries, head = kernels::kHead, count = 4 * kernels::kKeys;
  std::vector<float> q(queries * head), keys(count * head), want(queries * head);
  for (size_t i = 0; i < q.size(); i++) q[i] = numberAt(i);
  for (size_t i = 0; i < keys.size(); i++) keys[i] = numberAt(i + 777);
  for (int row = 0; row < queries; row++) {
    double weights = 0, sum[head] = {};
    for (int key = 0; key < count; key++) {
      double score = 0;
      for (int d = 0; d < head; d++) score += double(q[size_t(row * head + d)]) * keys[size_t(key * head + d)];
      weights += std::exp(score);
      for (int d = 0; d < head; d++) sum[d] += std::exp(score) * keys[size_t(key * head + d)];
    }
    for (int d = 0; d < head; d++) want[size_t(row * head + d)] = float(sum[d] / weights);
  }
  const auto out = card.make<float>(want.size());
  card.launch("planted_attend", {}, queries, kernels::kKeys * head * 4,
              Planted{card.upload(q).data, card.upload(keys).data, out.data, count, 0, fault, 0});
  return compare(card.download(out), want, 1e-4f);  // 128 weights of relative error 1e-6 each
}

static std::string select(Direct& card, int fault) {
  std::vector<unsigned> keys(500);
  for (size_t i = 0; i < keys.size(); i++) keys[i] = unsigned(i) * 2654435761u >> 14;
  std::vector<unsigned> sorted = keys;
  const size_t nth = 123;
  for (size_t i = 0; i < nth; i++)
    for (size_t j = i + 1; j < sorted.size(); j++)
      if (sorted[j] > sorted[i]) std::swap(sorted[i], sorted[j]);
  const auto out = card.make<unsigned>(1);
  card.launch("planted_select", {}, 128, kernels::kBins * 4 + 8,
              Planted{card.upload(keys).data, card.upload(std::vector<unsigned>{nth}).data, out.data, int(keys.size()), 0, fault, 0});
  return compare({float(card.download(out)[0])}, {float(sorted[nth - 1])}, 0);
}

static std::string warp(Direct& card, int fault) {
  std::vector<float> a(128), want(4);
  for (size_t i = 0; i < a.size(); i++) want[i / 32] += a[i] = numberAt(i);
  const auto out = card.make<float>(4);
  card.launch("planted_warp", {}, 128, 512, Planted{card.upload(a).data, nullptr, out.data, 0, 0, fault, 0});
  return compare(card.download(out), want, 0);
}

static std::string blocks(Direct& card, int fault) {
  constexpr unsigned count = 24;
  const auto out = card.make<unsigned>(1);
  card.launch("planted_blocks", {count}, 32, 0, Planted{nullptr, card.upload(std::vector<unsigned>(count + 1)).data, out.data, 0, 0, fault, 0});
  return compare({float(card.download(out)[0])}, {float(count * (count + 1) / 2)}, 0);
}

static std::string meet(Direct& card, int fault) {
  const auto out = card.make<int>(64);
  card.launch("planted_meet", {}, 64, 0, Planted{nullptr, nullptr, out.data, 0, 0, fault, 0});
  const std::vector<int> got = card.download(out);
  for (int i = 0; i < 64; i++)
    if (got[size_t(i)] != (i ^ 1)) return "wrong";
  return "right";
}

static std::string address(Direct& card, int fault) {
  std::vector<float> a(72);
  for (size_t i = 0; i < a.size(); i++) a[i] = numberAt(i);
  const std::vector<float> want(a.begin(), a.begin() + 64);
  const auto out = card.make<float>(72);
  constexpr int shared = 288;
  card.launch("planted_address", {}, 64, shared, Planted{card.upload(a).data, nullptr, out.data, int(a.size()), shared, fault, 0});
  return compare(card.download(out), want, 0);
}

static const std::map<std::string, std::function<std::string(Direct&, int)>> runs = {{"gemm", gemm},     {"reduce", reduce},  {"attend", attend},
                                                                                     {"select", select}, {"warp", warp},      {"blocks", blocks},
                                                                                     {"meet", meet},     {"address", address}};

#define FAULT(name)      \
  {                      \
#name, kernels::name \
  }
static const std::map<std::string, int> faults = {FAULT(kNone),
                                                  FAULT(kNoBarrierAfterUse),
                                                  FAULT(kNoBarrierAfterWait),
                                                  FAULT(kNoWait),
                                                  FAULT(kNoCommit),
                                                  FAULT(kNoSwizzle),
                                                  FAULT(kNoTrailingBarrier),
                                                  FAULT(kNoLeadingBarrier),
                                                  FAULT(kNoEndBarrier),
                                                  FAULT(kNoBarrierBeforeAnswer),
                                                  FAULT(kNoBarrierAfterClear),
                                                  FAULT(kLockStep),
                                                  FAULT(kSameWord),
                                                  FAULT(kNoFence),
                                                  FAULT(kAbsentLane),
                                                  FAULT(kDivergence),
                                                  FAULT(kEarlyExit),
                                                  FAULT(kMixedInstructions),
                                                  FAULT(kTooFewForNamed),
                                                  FAULT(kPastShared),
                                                  FAULT(kFarPastShared),
                                                  FAULT(kPastMember),
                                                  FAULT(kPastGlobal),
                                                  FAULT(kWritePastGlobal),
                                                  FAULT(kFarPastGlobal),
                                                  FAULT(kCopyPastGlobal),
                                                  FAULT(kCopyOutsideShared),
                                                  FAULT(kMisalignedLoad),
                                                  FAULT(kMisalignedPointer),
                                                  FAULT(kMisalignedCopy),
                                                  FAULT(kMisalignedMatrix),
                                                  FAULT(kUnwrittenShared),
                                                  FAULT(kOutstandingCopy),
                                                  FAULT(kDeepStack),
                                                  FAULT(kDivideByZero)};
#undef FAULT

}  // namespace ewe::test

int main(int count, char** arguments) {
  using namespace ewe::test;
  if (count < 4 || !runs.count(arguments[1]) || !faults.count(arguments[2])) {
    std::fprintf(stderr, "planted KERNEL FAULT SETTINGS...\n");
    return 2;
  }
  for (int i = 3; i < count; i++) {
    try {
      Direct card(arguments[i]);
      std::printf("%s\n", runs.at(arguments[1])(card, faults.at(arguments[2])).c_str());
    } catch (const std::exception& error) {
      std::printf("failed: %s\n", error.what());
    }
  }
  return 0;
}

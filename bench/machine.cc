// What this machine can do at most, as one line of JSON: GB/s of reading memory far beyond the caches, and GFLOP/s of multiply-adds that touch no
// memory (float32, and products of bfloat16 pairs where the processor has them), for 1 and for N threads. Each figure is the best of several runs:
// neighbours can only take from it.
//
//   machine [THREADS] [MIB_PER_THREAD] [REPEATS]
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));
typedef float Floats __attribute__((vector_size(kVectorBytes)));

constexpr int kChains = 12;  // enough to hide the latency of a multiply-add on two units, few enough for 16 registers
constexpr long kSteps = 8'000'000;

std::atomic<uint64_t> sink{0};  // what is computed must look needed

double readAll(const Words* data, size_t bytes) {
  const size_t count = bytes / sizeof(Words);
  Words sum[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; j++) sum[j] ^= data[i + j];
  for (int j = 1; j < 8; j++) sum[0] ^= sum[j];
  sink ^= sum[0][0];
  return double(bytes);
}

// The factor comes from outside, so that nothing can be computed ahead; every chain starts elsewhere, so that none equals another.
double float32(float factor) {
  Floats sum[kChains], x = Floats{} + factor;
  for (int i = 0; i < kChains; i++) sum[i] = Floats{} + float(i);
  for (long s = 0; s < kSteps; s++)
    for (int i = 0; i < kChains; i++) sum[i] = sum[i] * x + x;
  float total = 0;
  for (int i = 0; i < kChains; i++) total += sum[i][0];
  sink ^= uint64_t(total);
  return double(kSteps) * kChains * 2 * (sizeof(Floats) / sizeof(float));
}

double bfloat16(float factor) {
#if defined(__AVX512BF16__)
  __m512 sum[kChains];
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(factor), _mm512_set1_ps(factor));
  for (int i = 0; i < kChains; i++) sum[i] = _mm512_set1_ps(float(i));
  for (long s = 0; s < kSteps; s++)
    for (int i = 0; i < kChains; i++) sum[i] = _mm512_dpbf16_ps(sum[i], x, x);
  float total = 0;
  for (int i = 0; i < kChains; i++) total += sum[i][0];
  sink ^= uint64_t(total);
  return double(kSteps) * kChains * 4 * 16;
#else
  (void)factor;
  return 0;
#endif
}

// Work per nanosecond of `threads` threads that begin together.
double together(int threads, const std::function<double(int)>& work) {
  using Clock = std::chrono::steady_clock;
  std::atomic<int> ready{0};
  std::vector<double> done(size_t(threads), 0.0);
  std::vector<Clock::time_point> begin(size_t(threads), Clock::time_point{}), end = begin;
  std::vector<std::thread> team;
  for (int t = 0; t < threads; t++)
    team.emplace_back([&, t] {
      ready++;
      while (ready < threads) std::this_thread::yield();
      begin[t] = Clock::now();
      done[t] = work(t);
      end[t] = Clock::now();
    });
  for (auto& thread : team) thread.join();
  double sum = 0;
  for (double d : done) sum += d;
  const auto time = *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end());
  return sum / std::chrono::duration<double, std::nano>(time).count();
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  const size_t bytes = size_t(count > 2 ? std::atoi(arguments[2]) : 512) << 20;
  const int repeats = count > 3 ? std::atoi(arguments[3]) : 7;
  if (threads < 1 || bytes == 0 || repeats < 1) {
    std::fprintf(stderr, "machine [THREADS] [MIB_PER_THREAD] [REPEATS], each at least 1\n");
    return 2;
  }
  std::vector<Words*> memory;
  for (int t = 0; t < threads; t++) {
    void* data = std::aligned_alloc(2 << 20, bytes);
    if (data == nullptr) {
      std::fprintf(stderr, "no memory for %d times %zu bytes\n", threads, bytes);
      return 1;
    }
    madvise(data, bytes, MADV_HUGEPAGE);
    std::memset(data, t + 1, bytes);
    memory.push_back(static_cast<Words*>(data));
  }
  const float factor = float(threads) * 1e-3f;
  const struct {
    const char* name;
    std::function<double(int)> work;
  } kinds[] = {
      {"readGBs", [&](int t) { return readAll(memory[t], bytes); }},
      {"float32Gflops", [&](int) { return float32(factor); }},
      {"bfloat16Gflops", [&](int) { return bfloat16(factor); }},
  };
  std::printf("{");
  for (const auto& kind : kinds) {
    std::printf("%s\"%s\": {", &kind == kinds ? "" : ", ", kind.name);
    for (int t : {1, threads}) {
      double best = 0;
      for (int r = 0; r < repeats; r++) best = std::max(best, together(t, kind.work));
      std::printf("%s\"%d\": %.1f", t == 1 ? "" : ", ", t, best);
      if (threads == 1) break;
    }
    std::printf("}");
  }
  std::printf("}\n");
  return 0;
}

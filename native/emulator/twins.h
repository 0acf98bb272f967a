// What each function of the seam (kernels/seam.cuh, which includes this in the emulator's build) does on the CPU. What a path lacks is not here
// either: using it does not compile. Functions that all lanes or threads must call take the place of their call, for the messages.
#pragma once
#include <immintrin.h>

#include <cmath>

#include "emulator/block.h"
#include "emulator/warp.h"

#define EWE_KERNEL(name, Args, threads, blocks)                                                                    \
  static void name(const Args& args);                                                                              \
  static const ::ewe::emulator::Registered name##_registered(                                                      \
      #name, [](const void* args) { name(*static_cast<const Args*>(args)); }, int(sizeof(Args)), threads, blocks); \
  static void name([[maybe_unused]] const Args& args)
#define KERNEL(name, Args, threads, blocks) EWE_KERNEL(name, Args, threads, blocks)
#define SHARED(Type, name) \
  Type& name = *static_cast<Type*>(::ewe::emulator::self->block->shared(sizeof(Type), #Type, ::ewe::emulator::Site::current()))

namespace ewe::kernels {

using emulator::self;
using emulator::Site;

// ---- Where a thread stands

DEVICE int thread() { return self->index; }
DEVICE int lane() { return self->index & 31; }
DEVICE int warp() { return self->index >> 5; }
DEVICE int threads() { return self->block->launch->threads; }
DEVICE int blockX() { return self->block->x; }
DEVICE int blockY() { return self->block->y; }
DEVICE int blockZ() { return self->block->z; }
DEVICE int gridX() { return int(self->block->launch->grid.x); }
DEVICE int gridY() { return int(self->block->launch->grid.y); }
DEVICE int gridZ() { return int(self->block->launch->grid.z); }

// ---- Barriers

DEVICE void syncBlock(Site site = Site::current()) { self->block->meetBlock(site); }
DEVICE void syncWarp(Site site = Site::current()) { self->block->syncWarp(site); }
DEVICE void syncSome(int id, int count, Site site = Site::current()) { self->block->meetSome(id, count, site); }
DEVICE void fence() { self->block->fence(); }

// ---- Between the lanes of a warp

DEVICE unsigned long long meetWarp(const emulator::Instruction& instruction, unsigned long long value, int argument, const Site& site) {
  self->block->meetWarp(instruction, site, {value, argument, nullptr, nullptr, nullptr});
  return self->block->post().value;
}
DEVICE unsigned bitsOf(float x) { return __builtin_bit_cast(unsigned, x); }
DEVICE float floatOf(unsigned bits) { return __builtin_bit_cast(float, bits); }

DEVICE unsigned long long shuffleXor(unsigned long long v, int mask, Site site = Site::current()) {
  return meetWarp(emulator::kShuffleXor, v, mask, site);
}
DEVICE unsigned shuffleXor(unsigned v, int mask, Site site = Site::current()) { return unsigned(meetWarp(emulator::kShuffleXor, v, mask, site)); }
DEVICE int shuffleXor(int v, int mask, Site site = Site::current()) { return int(shuffleXor(unsigned(v), mask, site)); }
DEVICE float shuffleXor(float v, int mask, Site site = Site::current()) { return floatOf(shuffleXor(bitsOf(v), mask, site)); }
DEVICE unsigned long long shuffle(unsigned long long v, int from, Site site = Site::current()) { return meetWarp(emulator::kShuffle, v, from, site); }
DEVICE unsigned shuffle(unsigned v, int from, Site site = Site::current()) { return unsigned(meetWarp(emulator::kShuffle, v, from, site)); }
DEVICE int shuffle(int v, int from, Site site = Site::current()) { return int(shuffle(unsigned(v), from, site)); }
DEVICE float shuffle(float v, int from, Site site = Site::current()) { return floatOf(shuffle(bitsOf(v), from, site)); }
DEVICE unsigned long long shuffleUp(unsigned long long v, int distance, Site site = Site::current()) {
  return meetWarp(emulator::kShuffleUp, v, distance, site);
}
DEVICE int shuffleUp(int v, int distance, Site site = Site::current()) {
  return int(unsigned(meetWarp(emulator::kShuffleUp, unsigned(v), distance, site)));
}
DEVICE unsigned ballot(bool v, Site site = Site::current()) { return unsigned(meetWarp(emulator::kBallot, v, 0, site)); }

// ---- Atomics: no order but their own. Another thread may come before.

template <class T>
DEVICE T addTo(T* at, T v) {
  self->block->yield();
  return __atomic_fetch_add(at, v, __ATOMIC_RELAXED);
}
template <class T, class Better>
DEVICE T replaceIf(T* at, T v, Better better) {
  self->block->yield();
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (better(v, old) && !__atomic_compare_exchange_n(at, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
DEVICE int atomicAdd(int* at, int v) { return addTo(at, v); }
DEVICE unsigned atomicAdd(unsigned* at, unsigned v) { return addTo(at, v); }
DEVICE unsigned long long atomicAdd(unsigned long long* at, unsigned long long v) { return addTo(at, v); }
DEVICE unsigned atomicMax(unsigned* at, unsigned v) {
  return replaceIf(at, v, [](unsigned a, unsigned b) { return a > b; });
}
DEVICE unsigned atomicMin(unsigned* at, unsigned v) {
  return replaceIf(at, v, [](unsigned a, unsigned b) { return a < b; });
}
DEVICE unsigned long long atomicMax(unsigned long long* at, unsigned long long v) {
  return replaceIf(at, v, [](unsigned long long a, unsigned long long b) { return a > b; });
}
DEVICE unsigned atomicOr(unsigned* at, unsigned v) {
  self->block->yield();
  return __atomic_fetch_or(at, v, __ATOMIC_RELAXED);
}

// ---- Arithmetic

DEVICE float exp2Of(float x) {
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;  // as the instruction: no subnormal results
}
DEVICE float rsqrtOf(float x) { return 1.0f / sqrtf(x); }
DEVICE float erfOf(float x) { return erff(x); }
DEVICE float tanhOf(float x) { return tanhf(x); }
DEVICE float expOf(float x) { return expf(x); }
DEVICE float logOf(float x) { return logf(x); }
DEVICE float fmaOf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE float addOf(float a, float b) { return a + b; }
DEVICE float maxOf(float a, float b) { return fmaxf(a, b); }
DEVICE float minOf(float a, float b) { return fminf(a, b); }
DEVICE int countOnes(unsigned x) { return __builtin_popcount(x); }
DEVICE int leadingZeros(unsigned x) { return x ? __builtin_clz(x) : 32; }
DEVICE unsigned pickBytes(unsigned a, unsigned b, unsigned select) {
  const unsigned long long bytes = a | (unsigned long long)b << 32;
  unsigned y = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned nibble = select >> 4 * i & 15;
    const unsigned byte = unsigned(bytes >> 8 * (nibble & 7)) & 255;
    y |= (nibble & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;  // the top bit spreads the byte's sign
  }
  return y;
}

// ---- 16-bit numbers

DEVICE float toFloat(float x) { return x; }
DEVICE float toFloat(f16 x) { return _cvtsh_ss(x.bits); }
DEVICE f16 roundF16(float x) {
  return {x != x ? (unsigned short)0x7FFF : (unsigned short)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)};  // one NaN, as on the card
}
DEVICE unsigned roundPairF16(float low, float high) { return roundF16(low).bits | unsigned(roundF16(high).bits) << 16; }
#if EWE_PATH >= 800
DEVICE unsigned roundBf16Bits(float x) {
  const unsigned bits = bitsOf(x);
  return x != x ? 0x7FFFu : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
DEVICE unsigned roundPairBf16(float low, float high) { return roundBf16Bits(low) | roundBf16Bits(high) << 16; }
#endif
DEVICE unsigned subtractPairF16(unsigned a, unsigned b) {  // a difference of two fp16 numbers, rounded to fp32 and then to fp16, is as rounded once
  auto half = [](unsigned x, int shift) { return toFloat(f16{(unsigned short)(x >> shift & 0xFFFF)}); };
  return roundPairF16(half(a, 0) - half(b, 0), half(a, 16) - half(b, 16));
}

// ---- Memory

template <class T>
DEVICE T load(const T* at) {
  return *at;
}
DEVICE Words4 loadConstant(const Words4* at, Site site = Site::current()) {
  self->block->checkGlobal(at, sizeof *at, "loadConstant", site);
  return *at;
}
DEVICE Words4 loadStreaming(const Words4* at, Site site = Site::current()) {
  self->block->checkGlobal(at, sizeof *at, "loadStreaming", site);
  return *at;
}

#if EWE_PATH >= 800
DEVICE void copyAsync16(void* shared, const void* from, bool valid, Site site = Site::current()) {
  self->block->copyAsync(shared, from, valid, site);
}
DEVICE void commitCopies(Site site = Site::current()) { self->block->commitCopies(site); }
template <int pending>
DEVICE void waitCopies() {
  self->block->waitCopies(pending);
}
#else
DEVICE void copyAsync16(void* shared, const void* from, bool valid, Site site = Site::current()) {
  self->block->checkShared(shared, 16, "copyAsync16", site);
  *static_cast<Words4*>(shared) = valid ? loadConstant(static_cast<const Words4*>(from), site) : Words4{};
}
DEVICE void commitCopies() {}
template <int pending>
DEVICE void waitCopies() {}
#endif

// ---- Matrix instructions

#if EWE_PATH >= 750
DEVICE void loadMatrices(unsigned (&r)[4], const void* row, Site site = Site::current()) {
  self->block->loadMatrices(emulator::kLoadMatrices, row, r, site);
}
DEVICE void loadMatricesTransposed(unsigned (&r)[4], const void* row, Site site = Site::current()) {
  self->block->loadMatrices(emulator::kLoadMatricesTransposed, row, r, site);
}
template <class T>
DEVICE void multiply16816(float* c, const unsigned* a, const unsigned* b, Site site = Site::current()) {
  static_assert(!kIsBf16<T> || EWE_PATH >= 800, "bfloat16 is multiplied from 8.0 on");
  self->block->meetWarp(kIsBf16<T> ? emulator::kMultiply16816Bf16 : emulator::kMultiply16816F16, site, {0, 0, a, b, c});
}
#else
template <bool rowB>
DEVICE void multiply884(float* c, const unsigned* a, const unsigned* b, Site site = Site::current()) {
  self->block->meetWarp(rowB ? emulator::kMultiply884Row : emulator::kMultiply884Column, site, {0, 0, a, b, c});
}
#endif

}  // namespace ewe::kernels

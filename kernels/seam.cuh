// The seam between the kernels and what runs them: the only place with PTX, intrinsics and architecture tests. For a card these functions are the
// instructions below; for the emulator (EWE_EMULATOR) they are the twins of emulator/twins.h, which have the same names and meaning.
//
// EWE_PATH says which instructions exist (kernels/plan.h): the architecture's own, or a lower one by EWE_FORCE_PATH, so that a newer card can run the
// code of an older one.
#pragma once
#include "ops/args.h"

#if defined(EWE_EMULATOR)
#ifndef EWE_PATH
#error "the emulator's build says which path it is for: -DEWE_PATH=700, 750, 800 or 900"
#endif
#define DEVICE static inline
#elif defined(__CUDA_ARCH__)
#if defined(EWE_FORCE_PATH)
#define EWE_PATH EWE_FORCE_PATH
#elif __CUDA_ARCH__ >= 900
#define EWE_PATH 900
#elif __CUDA_ARCH__ >= 800
#define EWE_PATH 800
#elif __CUDA_ARCH__ >= 750
#define EWE_PATH 750
#else
#define EWE_PATH 700
#endif
#define DEVICE static __device__ __forceinline__
#else  // the host's pass of nvcc, whose result is thrown away
#define EWE_PATH 800
#define DEVICE static __device__ __forceinline__
#endif

namespace ewe::kernels {

// ---- Types: 16-bit numbers as bits, and what a thread moves at once

struct f16 {
  unsigned short bits;
};
struct bf16 {
  unsigned short bits;
};
struct alignas(8) Words2 {
  unsigned w[2];
};
struct alignas(16) Words4 {
  unsigned w[4];
};
struct alignas(16) Floats4 {
  float v[4];
};

constexpr int kPath = EWE_PATH;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

template <class T>
constexpr bool kIsBf16 = false;
template <>
constexpr bool kIsBf16<bf16> = true;

}  // namespace ewe::kernels

#if defined(EWE_EMULATOR)

#include "emulator/twins.h"

#else

// KERNEL(name, Args, threads, blocks) { ... args ... }: an entry point for blocks of `threads`, of which `blocks` should fit on a multiprocessor.
#define EWE_KERNEL(name, Args, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args args)
#define KERNEL(name, Args, threads, blocks) EWE_KERNEL(name, Args, threads, blocks)
// The block's shared memory, as one struct. A launch may ask for more than its size: what lies behind it belongs to its last, open-ended member.
#define SHARED(Type, name)                                            \
  extern __shared__ __align__(128) unsigned char ewe_shared_memory[]; \
  Type& name = *reinterpret_cast<Type*>(ewe_shared_memory)

namespace ewe::kernels {

// ---- Where a thread stands

DEVICE int thread() { return int(threadIdx.x); }
DEVICE int lane() { return int(threadIdx.x) & 31; }
DEVICE int warp() { return int(threadIdx.x) >> 5; }
DEVICE int threads() { return int(blockDim.x); }
DEVICE int blockX() { return int(blockIdx.x); }
DEVICE int blockY() { return int(blockIdx.y); }
DEVICE int blockZ() { return int(blockIdx.z); }
DEVICE int gridX() { return int(gridDim.x); }
DEVICE int gridY() { return int(gridDim.y); }
DEVICE int gridZ() { return int(gridDim.z); }

// ---- Barriers. All threads of the block, or all lanes of the warp, must come.

DEVICE void syncBlock() { __syncthreads(); }
DEVICE void syncWarp() { __syncwarp(); }
// Named barrier of `count` threads (a multiple of 32), id 1 to 15: for warps that work apart from the rest of the block.
DEVICE void syncSome(int id, int count) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory"); }
// What this thread wrote before is seen by every thread of the card that sees what it writes after.
DEVICE void fence() { __threadfence(); }

// ---- Between the lanes of a warp; all 32 must come

DEVICE float shuffleXor(float v, int mask) { return __shfl_xor_sync(kAllLanes, v, mask); }
DEVICE int shuffleXor(int v, int mask) { return __shfl_xor_sync(kAllLanes, v, mask); }
DEVICE unsigned shuffleXor(unsigned v, int mask) { return __shfl_xor_sync(kAllLanes, v, mask); }
DEVICE unsigned long long shuffleXor(unsigned long long v, int mask) { return __shfl_xor_sync(kAllLanes, v, mask); }
DEVICE float shuffle(float v, int from) { return __shfl_sync(kAllLanes, v, from); }
DEVICE int shuffle(int v, int from) { return __shfl_sync(kAllLanes, v, from); }
DEVICE unsigned shuffle(unsigned v, int from) { return __shfl_sync(kAllLanes, v, from); }
DEVICE unsigned long long shuffle(unsigned long long v, int from) { return __shfl_sync(kAllLanes, v, from); }
// From the lane `distance` below; lanes without one keep their own.
DEVICE unsigned long long shuffleUp(unsigned long long v, int distance) { return __shfl_up_sync(kAllLanes, v, distance); }
DEVICE int shuffleUp(int v, int distance) { return __shfl_up_sync(kAllLanes, v, distance); }
DEVICE unsigned ballot(bool v) { return __ballot_sync(kAllLanes, v); }

// ---- Integer atomics (floats have none here: their sum would depend on the order)

DEVICE int atomicAdd(int* at, int v) { return ::atomicAdd(at, v); }
DEVICE unsigned atomicAdd(unsigned* at, unsigned v) { return ::atomicAdd(at, v); }
DEVICE unsigned long long atomicAdd(unsigned long long* at, unsigned long long v) { return ::atomicAdd(at, v); }
DEVICE unsigned atomicMax(unsigned* at, unsigned v) { return ::atomicMax(at, v); }
DEVICE unsigned atomicMin(unsigned* at, unsigned v) { return ::atomicMin(at, v); }
DEVICE unsigned long long atomicMax(unsigned long long* at, unsigned long long v) { return ::atomicMax(at, v); }
DEVICE unsigned atomicOr(unsigned* at, unsigned v) { return ::atomicOr(at, v); }

// ---- Arithmetic that has an instruction of its own

DEVICE float exp2Of(float x) {  // 2^x to 2 ulp; exactly 1 for 0, 0 for -inf
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float rsqrtOf(float x) { return 1.0f / sqrtf(x); }  // IEEE square root and division: the same bits as the CPU's
DEVICE float erfOf(float x) { return erff(x); }
DEVICE float tanhOf(float x) { return tanhf(x); }
DEVICE float expOf(float x) { return expf(x); }
DEVICE float logOf(float x) { return logf(x); }
DEVICE float fmaOf(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float addOf(float a, float b) { return __fadd_rn(a, b); }  // never contracted with a product
DEVICE float maxOf(float a, float b) { return fmaxf(a, b); }      // the other one where one is NaN
DEVICE float minOf(float a, float b) { return fminf(a, b); }
DEVICE unsigned bitsOf(float x) { return __float_as_uint(x); }
DEVICE float floatOf(unsigned bits) { return __uint_as_float(bits); }
DEVICE int countOnes(unsigned x) { return __popc(x); }
DEVICE int leadingZeros(unsigned x) { return __clz(int(x)); }
// Bytes of {b, a} (byte 0 is a's lowest, byte 4 b's lowest) picked by the four nibbles of `select`.
DEVICE unsigned pickBytes(unsigned a, unsigned b, unsigned select) { return __byte_perm(a, b, select); }

// ---- 16-bit numbers, rounded to nearest even

DEVICE float toFloat(float x) { return x; }
DEVICE float toFloat(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
DEVICE f16 roundF16(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
#if EWE_PATH >= 800
DEVICE unsigned roundPairF16(float low, float high) {
  unsigned y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
DEVICE unsigned roundPairBf16(float low, float high) {
  unsigned y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
#else
DEVICE unsigned roundPairF16(float low, float high) { return roundF16(low).bits | unsigned(roundF16(high).bits) << 16; }
#endif
// a - b of two packed fp16 numbers each.
DEVICE unsigned subtractPairF16(unsigned a, unsigned b) {
  unsigned y;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}

// ---- Memory. Addresses are aligned to the size of what is moved.

template <class T>
DEVICE T load(const T* at) {
  return *at;
}
// Of memory that no kernel of this launch writes.
DEVICE Words4 loadConstant(const Words4* at) {
  Words4 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "l"(at));
  return v;
}
// The same for what is read once: weights of a decode step pass the first-level cache by.
DEVICE Words4 loadStreaming(const Words4* at) {
  Words4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "l"(at));
  return v;
}
DEVICE unsigned sharedAddress(const void* at) { return unsigned(__cvta_generic_to_shared(at)); }

// 16 bytes from global to shared memory, or zeros where `valid` is false (then `from` is not read, but must be an address). From 8.0 on the copy runs
// beside the thread until waitCopies; below it is done at once.
#if EWE_PATH >= 800
DEVICE void copyAsync16(void* shared, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
DEVICE void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `pending` of this thread's latest groups are under way. Other threads see the data after a barrier.
template <int pending>
DEVICE void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
#else
DEVICE void copyAsync16(void* shared, const void* from, bool valid) {
  *static_cast<Words4*>(shared) = valid ? loadConstant(static_cast<const Words4*>(from)) : Words4{};
}
DEVICE void commitCopies() {}
template <int pending>
DEVICE void waitCopies() {}
#endif

// ---- Matrix instructions. All 32 lanes must come; layouts are those of the PTX ISA, and tile.cuh's.

#if EWE_PATH >= 750
// Four 8x8 matrices of 16-bit numbers from shared memory: lane i gives the address of row i % 8 of matrix i / 8; r[m] of lane l gets columns
// 2 (l % 4), +1 of row l / 4 of matrix m (transposed: of column l / 4).
DEVICE void loadMatrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
}
DEVICE void loadMatricesTransposed(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
}
#endif

// c[16 x 8] += a[16 x 16] b[16 x 8], T is f16 or bf16 (from 8.0).
#if EWE_PATH >= 800
template <class T>
DEVICE void multiply16816(float* c, const unsigned* a, const unsigned* b) {
  if constexpr (kIsBf16<T>) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}
#elif EWE_PATH >= 750
template <class T>
DEVICE void multiply16816(float* c, const unsigned* a, const unsigned* b) {  // two instructions of half the depth, in the order of k
  static_assert(!kIsBf16<T>, "bfloat16 is multiplied from 8.0 on");
  for (int half = 0; half < 2; half++) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
}
#else
// Four products of 8 x 8 x 4, one per quad-pair (lanes 4q .. 4q+3 and 16+4q .. 16+4q+3): c[8 x 8] += a[8 x 4] b[4 x 8], fp16.
// rowB: a lane's two registers of b are four columns of one row, else four rows of one column.
template <bool rowB>
DEVICE void multiply884(float* c, const unsigned* a, const unsigned* b) {
  if constexpr (rowB) {
    asm volatile(
        "mma.sync.aligned.m8n8k4.row.row.f32.f16.f16.f32 {%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9}, {%10, %11}, {%0, %1, %2, %3, %4, %5, %6, %7};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9}, {%10, %11}, {%0, %1, %2, %3, %4, %5, %6, %7};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]));
  }
}
#endif

}  // namespace ewe::kernels

#endif  // !EWE_EMULATOR

namespace ewe::kernels {

// ---- What follows from the above, the same for both

DEVICE float toFloat(bf16 x) { return floatOf(unsigned(x.bits) << 16); }

// Beyond the largest fp16 number lies infinity, which one more product turns into NaN: activations stop at the largest. A NaN stays one.
DEVICE float saturateF16(float x) { return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x; }
DEVICE void round(float x, float& out) { out = x; }
DEVICE void round(float x, f16& out) { out = roundF16(saturateF16(x)); }
#if EWE_PATH >= 800
DEVICE void round(float x, bf16& out) { out = {(unsigned short)(roundPairBf16(x, 0) & 0xFFFF)}; }
#endif
template <class T>
DEVICE T round(float x) {
  T out;
  round(x, out);
  return out;
}
// Two numbers in one word, the first in the low half.
template <class T>
DEVICE unsigned roundPair(float low, float high) {
#if EWE_PATH >= 800
  if constexpr (kIsBf16<T>) return roundPairBf16(low, high);
#endif
  return roundPairF16(saturateF16(low), saturateF16(high));
}
template <class T>
DEVICE float lowOf(unsigned pair) {
  return toFloat(T{(unsigned short)(pair & 0xFFFF)});
}
template <class T>
DEVICE float highOf(unsigned pair) {
  return toFloat(T{(unsigned short)(pair >> 16)});
}

}  // namespace ewe::kernels

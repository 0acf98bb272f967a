// A kernel that goes wrong with addresses: out[thread] = a[thread] through shared memory. Path 800.
#include "kernels/seam.cuh"
#include "test/emulator/planted.h"

namespace ewe::kernels {

struct AddressShared {
  Floats4 pieces[16];
  float more[8];  // and what the launch gives beyond
};

DEVICE int dig(int depth, const volatile char* above) {
  volatile char frame[1024];
  frame[depth % 1024] = above ? above[0] : char(1);
  return depth > 0 ? dig(depth - 1, frame) + frame[1] : frame[0];
}

KERNEL(planted_address, Planted, 64, 4) {
  SHARED(AddressShared, s);
  const auto* a = static_cast<const float*>(args.a);
  auto* out = static_cast<float*>(args.out);
  auto* bytes = reinterpret_cast<char*>(&s);
  const bool chosen = thread() == 5;
  const int fault = chosen ? args.fault : int(kNone);
  if (thread() < 16 && args.fault != kUnwrittenShared) copyAsync16(&s.pieces[thread()], a + 4 * thread(), true);
  if (fault == kCopyPastGlobal) copyAsync16(&s.pieces[5], a + args.n, true);
  if (fault == kCopyOutsideShared) copyAsync16(out, a, true);
  if (fault == kMisalignedCopy) copyAsync16(bytes + 8, a, true);
  if (fault != kOutstandingCopy) {
    commitCopies();
    waitCopies<0>();
  }
  syncBlock();
  float value = s.pieces[thread() / 4].v[thread() % 4];
  if (fault == kPastShared) value += bytes[args.k];
  if (fault == kFarPastShared) value += bytes[args.k + 100000];
  if (fault == kPastMember) value += s.pieces[args.zero + 16].v[0];
  if (fault == kPastGlobal) value += a[args.n];
  if (fault == kWritePastGlobal) out[args.n] = 1;
  if (fault == kFarPastGlobal) value += a[args.n + 100000];
  if (fault == kMisalignedLoad) value += floatOf(loadConstant(reinterpret_cast<const Words4*>(a + 1)).w[0]);
  if (fault == kMisalignedPointer) value += floatOf(reinterpret_cast<const Words4*>(a + 1)->w[args.zero]);
  if (fault == kDeepStack) value += float(dig(1000 + args.zero, nullptr));
  if (fault == kDivideByZero) value += float(args.n / args.zero);
  unsigned r[4];
  loadMatrices(r, bytes + (args.fault == kMisalignedMatrix ? 8 : 0) + lane() % 8 * 16);
  if (args.zero) value += floatOf(r[0]);
  out[thread()] = value;
}

}  // namespace ewe::kernels

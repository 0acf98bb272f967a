// For benches that only a card can run: random numbers of any size made on the card itself, in copies of one piece, so that neither the host's memory
// nor the bus has a part in it.
#pragma once
#include <algorithm>

#include "cases.h"
#include "cuda/backend.h"
#include "kernels/ceiling.plan.h"

namespace ewe::test {

// The card, or null with a word where the device is none.
inline cuda::Cuda* cardOf(Run& run) {
  auto* card = dynamic_cast<cuda::Cuda*>(&run.ops);
  if (card) return card;
  run.compared++;
  run.figures = "only on a card (--device cuda)";
  return nullptr;
}

// Even numbers of a deviation, as 16-bit numbers or, for int8 (whose deviation the scale makes), as bytes.
class Made {
 public:
  Made(Run& run, cuda::Cuda& card, DType type, double deviation) : run_(run), card_(card), piece_(run, run.small() ? 1 << 16 : 1 << 24) {
    Random random(11);
    std::vector<unsigned char> bytes(piece_.bytes());
    for (size_t at = 0; at < bytes.size();) {
      const uint64_t bits = random.next();
      if (type == DType::int8) {
        for (int i = 0; i < 8; i++) bytes[at++] = static_cast<unsigned char>(bits >> 8 * i);
        continue;
      }
      const auto value = float(deviation * std::sqrt(3.0) * (double(bits >> 11) * 0x1p-52 - 1));
      narrow(&value, 1, type, &bytes[at]);
      at += 2;
    }
    run.check(run.ops.upload(piece_.data(), bytes.data(), bytes.size()));
  }

  void fill(void* to, size_t bytes) {
    for (size_t done = 0; done < bytes; done += piece_.bytes()) {
      const size_t part = std::min(bytes - done, piece_.bytes());
      const kernels::Ceiling args{piece_.data(), static_cast<char*>(to) + done, (long long)(part / 16), 0, 0};
      run_.check(card_.launch(kernels::planCopy(card_.limits()), &args, sizeof args));
    }
  }
  Buffer buffer(size_t bytes) {
    Buffer made(run_, bytes);
    fill(made.data(), bytes);
    return made;
  }

 private:
  Run& run_;
  cuda::Cuda& card_;
  Buffer piece_;
};

}  // namespace ewe::test

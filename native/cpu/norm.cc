#include "cpu/norm.h"

#include "cpu/backend.h"

namespace ewe::EWE_CPU {

Status Cpu::norm(const Norm& n) {
  if (n.residualType != DType::float32 || n.type == DType::float16)
    return Status::fail(Kind::internal, "The CPU norms a float32 residual stream into float32 or bfloat16.");
  const Format format = n.type == DType::bfloat16 ? Format::bfloat16 : Format::float32;
  const long grain = 16384 / n.width + 1;  // below that, waking the others costs more
  each(n.rows, grain, [&](long begin, long end, int) {
    for (long row = begin; row < end; row++) {
      const float* x = static_cast<const float*>(n.x) + (long long)(n.select ? n.select[row] : row) * n.width;
      const Statistics s = statistics(x, n.width, n.eps);
      const long long at = row * n.width * sizeOf(n.type);
      normalise(x, s, n.weight, n.bias, n.width, n.width, static_cast<char*>(n.y) + at, format);
      if (n.weight2) normalise(x, s, n.weight2, n.bias2, n.width, n.width, static_cast<char*>(n.y2) + at, format);
    }
  });
  return {};
}

}  // namespace ewe::EWE_CPU

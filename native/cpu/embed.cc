#include "cpu/backend.h"

namespace ewe::EWE_CPU {

Status Cpu::embed(const Embed& e) {
  if (e.residualType != DType::float32) return Status::fail(Kind::internal, "The CPU keeps the residual stream in float32.");
  if (e.tableType == DType::int8) return Status::fail(Kind::internal, "A table of int8 has no scales: embeddings are float32, bfloat16 or float16.");
  for (int i = 0; i < e.rows.rows; i++) {
    if (e.rows.token[i] < 0 || e.rows.token[i] >= e.vocab)
      return Status::fail(Kind::internal, "Token %d of row %d is outside the table of %d rows.", e.rows.token[i], i, e.vocab);
  }
  each(e.rows.rows, 32, [&](long begin, long end, int) {
    for (long row = begin; row < end; row++) {
      const long long at = (long long)e.rows.token[row] * e.width;
      float* x = static_cast<float*>(e.x) + row * e.width;
      if (e.tableType == DType::float32) {
        memcpy(x, static_cast<const float*>(e.table) + at, size_t(e.width) * 4);
        continue;
      }
      const uint16_t* table = static_cast<const uint16_t*>(e.table) + at;
      const bool bfloat16 = e.tableType == DType::bfloat16;
      int i = 0;
      for (; i + 16 <= e.width; i += 16) EWE_CPU::store(x + i, bfloat16 ? fromBfloat16(table + i) : fromFloat16(table + i));
      if (i < e.width) {
        uint16_t last[16] = {};
        memcpy(last, table + i, size_t(e.width - i) * 2);
        storeFirst(x + i, bfloat16 ? fromBfloat16(last) : fromFloat16(last), e.width - i);
      }
    }
  });
  return {};
}

}  // namespace ewe::EWE_CPU

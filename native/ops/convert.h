// Conversions between fp32 and the 16-bit types, the same bits everywhere: round to nearest even, infinities kept, NaN stays NaN.
#pragma once
#include <cstdint>

#include "ops/args.h"

namespace ewe {

void widen(const void* source, DType type, int64_t count, float* target);
void narrow(const float* source, int64_t count, DType type, void* target);

}  // namespace ewe

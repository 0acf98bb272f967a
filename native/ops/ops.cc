#include "ops/ops.h"

namespace ewe {

// Defined here so that one baseline object holds the class's table, whichever instruction sets implement it.
Ops::~Ops() = default;

}  // namespace ewe

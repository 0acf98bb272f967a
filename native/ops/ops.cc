#include "ops/ops.h"

namespace ewe {

// Defined here so that one baseline object holds the class's table, whichever instruction sets implement it.
Ops::~Ops() = default;
bool Ops::multiplies(DType) const { return true; }

// What a device without recordings says: the engine asks records() first.
static Status noRecordings() { return Status::fail(Kind::internal, "this device records no steps"); }
bool Ops::records() const { return false; }
bool Ops::recorded(unsigned long long) const { return false; }
Status Ops::record(unsigned long long) { return noRecordings(); }
Status Ops::endRecord() { return noRecordings(); }
void Ops::dropRecord() {}
Status Ops::replay(unsigned long long) { return noRecordings(); }

}  // namespace ewe

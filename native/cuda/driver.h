// The CUDA driver as an interface: what the backend asks of it, and no more. cuda/libcuda is the real one.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "base/error.h"

namespace ewe::cuda {

struct Card {
  std::string name;
  size_t memory;          // bytes in all
  int computeCapability;  // times ten: 80 for 8.0
};

class Driver {
 public:
  virtual ~Driver() = default;
  virtual Status cards(std::vector<Card>& out) = 0;
  // As the driver counts: 13000 for CUDA 13.0.
  virtual int version() const = 0;
};

// Opens the driver of this machine, once per process. Without one the failure says why.
Status openDriver(Driver** out);

}  // namespace ewe::cuda

// Device memory: each allocation is a mapping of its own that ends at an unreadable page, and begins full of NaN bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace ewe::emulator {

class Heap {
 public:
  Heap(size_t capacity, bool strict);
  ~Heap();
  Heap(const Heap&) = delete;
  Status allocate(void** memory, size_t bytes);
  Status release(void* memory);
  size_t used() const { return used_; }
  size_t capacity() const { return capacity_; }

  // Whether an allocation holds these bytes: then begin and end are those of the allocation.
  bool find(const void* at, size_t bytes, size_t& begin, size_t& end) const;
  bool holds(const void* at, size_t bytes) const;
  // Whether a byte of them is device memory.
  bool touches(const void* at, size_t bytes) const;
  // Of bytes that no allocation holds: where they lie.
  std::string explain(const void* at, size_t bytes) const;
  // What a kernel or a copy wrote behind an allocation's end, up to the page: a message, or empty.
  std::string damage() const;

  // Strict: device memory can be read and written only between these.
  void open();
  void close();

 private:
  struct Allocation {
    uintptr_t begin;
    size_t bytes;
    char* mapping;
    size_t mapped;
  };
  const Allocation* below(uintptr_t address) const;  // the last one that begins at or below
  static std::string damageOf(const Allocation& allocation);

  std::vector<Allocation> allocations_;  // by address
  size_t capacity_, used_ = 0;
  bool strict_;
  int open_ = 0;
};

}  // namespace ewe::emulator

// A file mapped for reading.
#pragma once
#include <cstddef>
#include <string>

#include "base/error.h"

namespace ewe {

class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  // Fails for anything but a regular file (links are followed).
  static Status open(const std::string& path, Mapping& out);

  const unsigned char* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }
  // Tells the system that these bytes are not needed again, so that loading a large file does not push other things out of memory.
  void forget(size_t offset, size_t bytes) const;

 private:
  const unsigned char* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

}  // namespace ewe

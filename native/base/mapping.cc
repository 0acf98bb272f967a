#include "base/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace ewe {

Mapping::Mapping(Mapping&& other) noexcept { *this = std::move(other); }

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

Mapping::~Mapping() {
  if (data_) munmap(const_cast<unsigned char*>(data_), size_);
}

Status Mapping::open(const std::string& path, Mapping& out) {
  // Non-blocking, so that a named pipe put in the file's place cannot hang us before it is refused.
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return Status::checkpoint(path.c_str(), "", "cannot be opened: %s", std::strerror(errno));
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Status::checkpoint(path.c_str(), "", "is not a regular file");
  }
  Mapping mapping;
  mapping.path_ = path;
  mapping.size_ = size_t(info.st_size);
  if (mapping.size_ > 0) {
    void* data = mmap(nullptr, mapping.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    int error = errno;
    close(fd);
    if (data == MAP_FAILED) {
      mapping.size_ = 0;
      return Status::checkpoint(path.c_str(), "", "cannot be mapped: %s", std::strerror(error));
    }
    mapping.data_ = static_cast<const unsigned char*>(data);
  } else {
    close(fd);
  }
  out = std::move(mapping);
  return {};
}

void Mapping::forget(size_t offset, size_t bytes) const {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  size_t begin = (offset + page - 1) / page * page, end = (offset + bytes) / page * page;
  if (begin < end) madvise(const_cast<unsigned char*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace ewe

#include "base/error.h"

#include <cstdio>
#include <cstring>
#include <utility>

namespace ewe {

Status::Status(Status&& other) noexcept : failure_(std::exchange(other.failure_, nullptr)) {}
Status& Status::operator=(Status&& other) noexcept {
  std::swap(failure_, other.failure_);
  return *this;
}
Status::~Status() { delete failure_; }
bool Status::ok() const { return failure_ == nullptr; }
const Failure& Status::failure() const { return *failure_; }

static Failure* make(Kind kind, const char* format, va_list args) {
  auto* failure = new Failure{kind, {}, {}, {}};
  std::vsnprintf(failure->message, sizeof failure->message, format, args);
  return failure;
}

Status Status::fail(Kind kind, const char* format, ...) {
  va_list args;
  va_start(args, format);
  Status status;
  status.failure_ = make(kind, format, args);
  va_end(args);
  return status;
}

Status Status::checkpoint(const char* file, const char* tensor, const char* format, ...) {
  va_list args;
  va_start(args, format);
  Status status;
  status.failure_ = make(Kind::checkpoint, format, args);
  va_end(args);
  std::snprintf(status.failure_->file, sizeof status.failure_->file, "%s", file);
  std::snprintf(status.failure_->tensor, sizeof status.failure_->tensor, "%s", tensor);
  return status;
}

}  // namespace ewe

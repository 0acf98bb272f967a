// How native code says that something failed: a Status handed up to the one place (napi) that makes the typed JavaScript error.
#pragma once
#include <cstdarg>

namespace ewe {

// Each kind is one class of src/errors.ts; napi/errors.cc holds the table.
enum class Kind : int { ok = 0, option, checkpoint, device, memory, context, disposed, aborted, numeric, queue, deadline, internal };

struct Failure {
  Kind kind;
  char message[1000];
  char file[500];  // checkpoint: the file and tensor it is about, or empty
  char tensor[300];
};

// Null is success. Owns its failure; plain enough that code of every instruction set may return one without an inline function of its own.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Status&& other) noexcept;
  Status& operator=(Status&& other) noexcept;
  ~Status();
  // printf-style.
  static Status fail(Kind kind, const char* format, ...) __attribute__((format(printf, 2, 3)));
  static Status checkpoint(const char* file, const char* tensor, const char* format, ...) __attribute__((format(printf, 3, 4)));
  bool ok() const;
  const Failure& failure() const;

 private:
  Failure* failure_ = nullptr;
};

#define EWE_TRY(expression)                  \
  do {                                       \
    ::ewe::Status ewe_status = (expression); \
    if (!ewe_status.ok()) return ewe_status; \
  } while (0)

}  // namespace ewe

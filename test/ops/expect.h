// A check in a loop: the message is made only when it fails, and only the first few are kept.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <string>

#include "cases.h"

namespace ewe::test {

__attribute__((format(printf, 2, 3))) inline void fail(Run& run, const char* format, ...) {
  if (run.failures.size() >= 10) return;
  char text[400];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  run.failures.push_back(text);
}

}  // namespace ewe::test

// In functions with a `Run& run`: EXPECT(condition, "printf-style %s", "message");
#define EXPECT(condition, ...)                             \
  do {                                                     \
    run.compared++;                                        \
    if (!(condition)) ::ewe::test::fail(run, __VA_ARGS__); \
  } while (0)

#include "emulator/settings.h"

#include <cerrno>
#include <cstdlib>
#include <string>

namespace ewe::emulator {

static bool parseNumber(const std::string& text, uint64_t least, uint64_t most, uint64_t& out) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return false;
  char* end = nullptr;
  errno = 0;
  out = std::strtoull(text.c_str(), &end, 10);
  if (errno) return false;
  const std::string unit = end;
  const int shift = unit.empty() ? 0 : unit == "K" ? 10 : unit == "M" ? 20 : unit == "G" ? 30 : -1;
  if (shift < 0 || out > (UINT64_MAX >> shift)) return false;
  out <<= shift;
  return out >= least && out <= most;
}

template <class T>
static bool parseWord(const std::string& text, std::initializer_list<const char*> words, T& out) {
  int index = 0;
  for (const char* word : words) {
    if (text == word) {
      out = T(index);
      return true;
    }
    index++;
  }
  return false;
}

static bool parseOne(const std::string& key, const std::string& value, Settings& s) {
  uint64_t number = 0;
  if (key == "schedule") return parseWord(value, {"fifo", "lifo", "random", "prio"}, s.schedule);
  if (key == "copies") return parseWord(value, {"lazy", "eager", "coin"}, s.copies);
  if (key == "streams") return parseWord(value, {"now", "shuffle"}, s.streams);
  if (key == "strict") return value.empty() && (s.strict = true);
  if (key == "seed") return parseNumber(value, 0, UINT64_MAX, s.seed);
  if (key == "workers" && parseNumber(value, 1, 64, number)) return s.workers = int(number), true;
  if (key == "memory" && parseNumber(value, 1 << 16, uint64_t(1) << 46, number)) return s.memory = number, true;
  return false;
}

Status parseSettings(const char* text, Settings& out) {
  Settings s;
  std::string rest = text;
  while (!rest.empty()) {
    const std::string item = rest.substr(0, rest.find(','));
    rest.erase(0, item.size() + 1);
    const size_t equals = item.find('=');
    const std::string key = item.substr(0, equals), value = equals == std::string::npos ? "" : item.substr(equals + 1);
    if (!parseOne(key, value, s))
      return Status::fail(Kind::option,
                          "EWE_EMULATOR: \"%s\" is not understood; it takes schedule=fifo|lifo|random|prio, seed=N, copies=lazy|eager|coin, "
                          "streams=now|shuffle, workers=1..64, memory=64K..64T, strict",
                          item.c_str());
  }
  out = s;
  return Status();
}

}  // namespace ewe::emulator

// From token ids to text: the bytes of the ids, joined, as whole UTF-8 characters, up to the first stop string. Pure: no device, no clock.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace ewe {

// What each id of a vocabulary contributes to a text.
class TextTable {
 public:
  TextTable() = default;
  // The bytes of id i are bytes[ends[i - 1] .. ends[i]); special[i] is not 0 for special tokens. Refuses ends that fall or leave the bytes.
  static Status make(std::string bytes, std::vector<uint32_t> ends, std::vector<uint8_t> special, TextTable* out);

  // Ids without an entry (rows that pad a vocabulary) contribute nothing.
  std::string_view bytes(int id) const;
  bool special(int id) const;

 private:
  bool has(int id) const { return id >= 0 && size_t(id) < ends_.size(); }

  std::string bytes_;
  std::vector<uint32_t> ends_;
  std::vector<uint8_t> special_;
};

// UTF-8 from bytes that come piece by piece. Each maximal part of a broken sequence becomes one U+FFFD, as in the WHATWG decoder (without its removal
// of a byte order mark) and in Rust's from_utf8_lossy. Up to 3 bytes of an incomplete character wait for the next piece.
class Utf8 {
 public:
  void push(std::string_view bytes, std::string& out);
  // The text is over: an incomplete character is a broken one.
  void finish(std::string& out);

 private:
  char held_[4];
  int count_ = 0;                           // bytes of the character so far
  int length_ = 0;                          // bytes that it will have
  unsigned char low_ = 0x80, high_ = 0xBF;  // range of its next byte
};

// The text of one sample. The pieces that push() and finish() return, joined, are the decoded whole, cut before the first stop string.
//
// First is the stop string whose last character comes first, since with it generation ends; if several end there, the longest, and of equal ones the
// one listed first. This depends on the text only, not on how tokens divide it. A tail of the text that may be the beginning of a stop string is held
// back; so nothing returned is ever taken back.
class TextStream {
 public:
  // The table outlives the stream. Stop strings are valid UTF-8 and not empty.
  TextStream(const TextTable& table, const std::vector<std::string>& stops, bool keepSpecial);

  // Appends a token and returns the text that is certain now. After a stop string everything is ignored.
  std::string push(int id);
  // Ends the text and returns what was held back. It may be this that completes a stop string (one that holds U+FFFD).
  std::string finish();
  // Index of the stop string that ended the text, or -1.
  int stopped() const { return stopped_; }

 private:
  // Knuth, Morris and Pratt: linear in the text for each stop string.
  struct Stop {
    std::string text;
    std::vector<int> border;  // border[i]: length of the longest proper beginning of text[0 .. i] that is also its end
    int matched = 0;          // length of the longest beginning of text that ends the stream so far
  };
  // Looks for stop strings in held_ from `begin` on and takes out what is certain.
  std::string release(size_t begin);

  const TextTable* table_;
  bool keepSpecial_;
  Utf8 utf8_;
  std::vector<Stop> stops_;
  std::string held_;  // decoded, not yet returned
  int stopped_ = -1;
};

}  // namespace ewe

// Ids to text against a decoder and a search written over the whole text.
#include "engine/text.h"

#include <algorithm>

#include "expect.h"

namespace ewe::test {
namespace {

using Strings = std::vector<std::string>;

const std::string kBroken = "\xEF\xBF\xBD";  // U+FFFD

// One entry per id; ids listed in special are special.
TextTable tableOf(Run& run, const Strings& entries, const std::vector<int>& special = {}) {
  std::string bytes;
  std::vector<uint32_t> ends;
  std::vector<uint8_t> flags(entries.size(), 0);
  for (const std::string& entry : entries) {
    bytes += entry;
    ends.push_back(uint32_t(bytes.size()));
  }
  for (int id : special) flags[size_t(id)] = 1;
  TextTable table;
  run.check(TextTable::make(bytes, ends, flags, &table));
  return table;
}

std::string quoted(const std::string& text) {
  std::string out;
  for (unsigned char c : text) {
    char hex[5];
    std::snprintf(hex, sizeof hex, c < 0x20 || c >= 0x7F ? "\\x%02x" : "%c", c);
    out += hex;
  }
  return out;
}

// The lengths of the table "Well-Formed UTF-8 Byte Sequences" of the Unicode Standard: how many bytes at `at` begin a sequence of that table, and
// whether they are a whole one. A maximal part of a sequence is the longest such beginning.
struct Beginning {
  size_t bytes;
  bool whole;
};
Beginning beginning(const std::string& s, size_t at) {
  struct Form {
    int ranges[8];  // low, high of each byte
    size_t length;
  };
  static const Form forms[] = {
      {{0x00, 0x7F}, 1},
      {{0xC2, 0xDF, 0x80, 0xBF}, 2},
      {{0xE0, 0xE0, 0xA0, 0xBF, 0x80, 0xBF}, 3},
      {{0xE1, 0xEC, 0x80, 0xBF, 0x80, 0xBF}, 3},
      {{0xED, 0xED, 0x80, 0x9F, 0x80, 0xBF}, 3},
      {{0xEE, 0xEF, 0x80, 0xBF, 0x80, 0xBF}, 3},
      {{0xF0, 0xF0, 0x90, 0xBF, 0x80, 0xBF, 0x80, 0xBF}, 4},
      {{0xF1, 0xF3, 0x80, 0xBF, 0x80, 0xBF, 0x80, 0xBF}, 4},
      {{0xF4, 0xF4, 0x80, 0x8F, 0x80, 0xBF, 0x80, 0xBF}, 4},
  };
  Beginning longest = {0, false};
  for (const Form& form : forms) {
    size_t n = 0;
    while (n < form.length && at + n < s.size() && (unsigned char)(s[at + n]) >= form.ranges[2 * n] &&
           (unsigned char)(s[at + n]) <= form.ranges[2 * n + 1])
      n++;
    if (n > longest.bytes) longest = {n, n == form.length};
  }
  return longest;
}
std::string decoded(const std::string& s) {
  std::string out;
  for (size_t at = 0; at < s.size();) {
    const Beginning b = beginning(s, at);
    out += b.whole ? s.substr(at, b.bytes) : kBroken;
    at += std::max<size_t>(b.bytes, 1);
  }
  return out;
}

// The text before the stop string that ends first (of several the longest, then the first listed), and its index.
std::string cut(const std::string& text, const Strings& stops, int* which) {
  *which = -1;
  for (size_t end = 1; end <= text.size() && *which < 0; end++) {
    for (size_t i = 0; i < stops.size(); i++) {
      const std::string& stop = stops[i];
      if (stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (*which < 0 || stop.size() > stops[size_t(*which)].size()) *which = int(i);
    }
    if (*which >= 0) return text.substr(0, end - stops[size_t(*which)].size());
  }
  return text;
}

struct Streamed {
  Strings pieces;
  std::string text;
  int stopped;
};
Streamed stream(const TextTable& table, const std::vector<int>& ids, const Strings& stops, bool keepSpecial = false) {
  TextStream stream(table, stops, keepSpecial);
  Streamed s;
  for (int id : ids) s.pieces.push_back(stream.push(id));
  s.pieces.push_back(stream.finish());
  for (const std::string& piece : s.pieces) s.text += piece;
  s.stopped = stream.stopped();
  return s;
}

static void characters(Run& run) {
  const TextTable table = tableOf(run, {"a", "\xC3", "\xA9", "\xF0\x9F", "\x98", "\x80", "\xE2\x82\xAC", "\xE2\x82"});
  EXPECT((stream(table, {0, 1, 2, 6}, {}).pieces == Strings{"a", "", "\xC3\xA9", "\xE2\x82\xAC", ""}), "two tokens of one character");
  EXPECT((stream(table, {3, 4, 5, 0}, {}).pieces == Strings{"", "", "\xF0\x9F\x98\x80", "a", ""}), "three tokens of one character");
  EXPECT((stream(table, {7, 0}, {}).pieces == Strings{"", kBroken + "a", ""}), "a character that breaks off");
  EXPECT((stream(table, {0, 3}, {}).pieces == Strings{"a", "", kBroken}), "a character that never ends");
}

static void broken(Run& run) {
  // From section 3.9 of the Unicode Standard: what stands for each maximal part.
  const std::pair<const char*, int> examples[] = {{"\xC0\xAF", 2},     {"\xE0\x80\xBF", 3},         {"\xF0\x81\x82", 3}, {"\xED\xA0\x80", 3},
                                                  {"\xED\xBF\xBF", 3}, {"\xF4\x91\x92\x93", 4},     {"\xFF", 1},         {"\x80\xBF", 2},
                                                  {"\xE1\x80\xE2", 2}, {"\xF0\x91\x92\xF1\xBF", 2}, {"\xE2\x82", 1},     {"\xF0\x9F\x98", 1}};
  for (const auto& [bytes, count] : examples) {
    std::string expected, text;
    for (int i = 0; i < count; i++) expected += kBroken;
    Utf8 utf8;
    utf8.push(bytes, text);
    utf8.finish(text);
    EXPECT(text == expected && decoded(bytes) == expected, "%s became %s", quoted(bytes).c_str(), quoted(text).c_str());
  }
  // All sequences of four bytes of those at which the rules change.
  const std::string bytes("\x41\x7F\x80\x8F\x90\x9F\xA0\xBF\xC1\xC2\xE0\xE1\xED\xF0\xF1\xF4\xF5");
  std::string s;
  for (int i = 0; i < 17 * 17 * 17 * 17; i++) {
    s.clear();
    for (int j = 0, rest = i; j < 4; j++, rest /= 17) s += bytes[size_t(rest % 17)];
    Utf8 utf8;
    std::string text;
    utf8.push(s, text);
    utf8.finish(text);
    EXPECT(text == decoded(s), "%s became %s", quoted(s).c_str(), quoted(text).c_str());
  }
}

static void stopStrings(Run& run) {
  const TextTable table = tableOf(run, {"Hel", "lo, wo", "rld", "###", " End", "a", "b", "c", "d", "\xE2\x82", "\xAC", "\xEF"});
  const auto is = [&](const std::vector<int>& ids, const Strings& stops, const Strings& pieces, int which) {
    const Streamed s = stream(table, ids, stops);
    std::string all;
    for (const std::string& piece : s.pieces) all += "'" + quoted(piece) + "' ";
    EXPECT(s.pieces == pieces && s.stopped == which, "%s stopped %d", all.c_str(), s.stopped);
  };
  is({0, 1, 2}, {"world"}, {"Hel", "lo, ", "", ""}, 0);  // across tokens, in the middle of one
  is({0, 1, 2, 0}, {"lo"}, {"He", "l", "", "", ""}, 0);  // what follows is dropped
  is({0, 3, 4}, {"### End"}, {"Hel", "", "", ""}, 0);
  is({3, 0}, {"### End"}, {"", "###Hel", ""}, -1);                                      // held back, and then not it
  is({0, 3}, {"### End"}, {"Hel", "", "###"}, -1);                                      // held back to the end
  is({5, 6, 7, 8}, {"abcd", "bc"}, {"", "", "a", "", ""}, 1);                           // the one that ends first
  is({5, 6, 7}, {"bc", "abc", "c", "abc"}, {"", "", "", ""}, 1);                        // of those the longest, then the first
  is({5, 5, 6, 5, 5, 6, 5, 7}, {"aabac"}, {"", "", "", "", "aab", "", "", "", ""}, 0);  // it begins within a try that failed
  is({9, 10, 5}, {"\xE2\x82\xAC"}, {"", "", "", ""}, 0);                                // a character in two tokens
  is({5, 11}, {kBroken}, {"a", "", ""}, 0);                                             // the end completes it
}

static void specials(Run& run) {
  const TextTable table = tableOf(run, {"a", "<|end|>", "\xC3", "\xA9", ""}, {1});
  EXPECT(stream(table, {0, 1, 0}, {}).text == "aa" && stream(table, {0, 1, 0}, {}, true).text == "a<|end|>a", "special tokens");
  EXPECT(stream(table, {2, 1, 3}, {}).text == "\xC3\xA9", "a skipped token does not break a character");
  EXPECT(stream(table, {0, 1}, {"end"}).stopped == -1 && stream(table, {0, 1}, {"end"}, true).stopped == 0, "stop strings see what the text shows");
  EXPECT(stream(table, {4, 5, 1000000, -1, 0}, {}).text == "a", "ids without text");
}

static void tables(Run& run) {
  TextTable table;
  EXPECT(!TextTable::make("abc", {1, 3}, {0}, &table).ok(), "a flag is missing");
  EXPECT(!TextTable::make("abc", {2, 1}, {0, 0}, &table).ok(), "ends that fall");
  EXPECT(!TextTable::make("abc", {1, 4}, {0, 0}, &table).ok(), "an end outside");
  EXPECT(table.bytes(0).empty(), "a refused table was taken");
  EXPECT(TextTable::make("abc", {1, 1, 3}, {0, 0, 1}, &table).ok() && table.bytes(2) == "bc" && table.bytes(1).empty() && table.special(2),
         "a good table");
}

// Random bytes of few kinds, so that characters, broken ones and stop strings all happen often; random tokens over them.
static void whole(Run& run) {
  Random random(7);
  const Strings letters = {"a", "b", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xC3", "\x82", "\xF0\x9F", "\xE2", "\xAC", kBroken};
  const auto letter = [&](int kinds) { return letters[size_t(random.below(kinds))]; };
  int stopped = 0, split = 0;
  for (int round = 0; round < 5000; round++) {
    const int kinds = round % 3 == 0 ? 2 : round % 3 == 1 ? 5 : int(letters.size());
    Strings entries;
    for (int i = 0; i < 12; i++) {
      std::string bytes;
      for (int j = random.below(4); j >= 0; j--) bytes += letter(kinds);
      const size_t at = size_t(random.below(int(bytes.size())));
      entries.push_back(bytes.substr(at, size_t(1 + random.below(6))));
    }
    const TextTable table = tableOf(run, entries);
    std::vector<int> ids;
    std::string bytes;
    for (int i = random.below(25); i >= 0; i--) {
      ids.push_back(random.below(12));
      bytes += entries[size_t(ids.back())];
    }
    Strings stops;
    for (int i = random.below(4); i > 0; i--) {
      std::string stop;
      for (int j = random.below(round % 2 ? 3 : 9); j >= 0; j--) stop += random.below(8) ? letter(std::min(kinds, 5)) : kBroken;
      stops.push_back(stop);
    }
    int which;
    const std::string expected = cut(decoded(bytes), stops, &which);
    const Streamed s = stream(table, ids, stops);
    EXPECT(s.text == expected && s.stopped == which, "round %d: '%s' stopped %d, not '%s' stopped %d", round, quoted(s.text).c_str(), s.stopped,
           quoted(expected).c_str(), which);
    for (const std::string& piece : s.pieces) EXPECT(decoded(piece) == piece, "round %d: a piece that is no text: %s", round, quoted(piece).c_str());
    stopped += which >= 0;
    split += s.pieces.size() > 2 && !expected.empty();
  }
  EXPECT(stopped > 800 && stopped < 4200 && split > 1000, "the cases are one-sided: %d stopped, %d in pieces", stopped, split);
}

// Nothing later may change what was returned, and no more than needed is held back: a stop string's length and three bytes.
static void prompt(Run& run) {
  const TextTable table = tableOf(run, {"ab", "ba", "a", "b"});
  Random random(8);
  for (int round = 0; round < 300; round++) {
    TextStream stream(table, {"abababc", "bbbbbbbd"}, false);
    size_t in = 0, out = 0;
    for (int i = 0; i < 50; i++) {
      const int id = random.below(4);
      in += table.bytes(id).size();
      out += stream.push(id).size();
      EXPECT(in - out <= 7, "%zu bytes are held back", in - out);
    }
  }
}

// 64 stop strings of 1 KB that nearly match all the time: 256 KB of text in linear time. Restarting each search would take 1,000 times as
// long, and the runner would end it.
static void many(Run& run) {
  const TextTable table = tableOf(run, {"aaaaaaaa"});
  Strings stops;
  for (int i = 0; i < 64; i++) stops.push_back(std::string(size_t(1023 - i), 'a') + char('b' + i % 20));
  TextStream stream(table, stops, false);
  size_t length = 0;
  for (int i = 0; i < 32768; i++) length += stream.push(0).size();
  length += stream.finish().size();
  EXPECT(length == 262144, "%zu bytes", length);
}

static Suite suite([](Cases& cases) {
  cases.once("text/a character that spans tokens comes out whole", characters);
  cases.once("text/broken UTF-8 becomes what a decoder of the whole text makes of it", broken);
  cases.once("text/stop strings match across tokens and cut the text before them", stopStrings);
  cases.once("text/special tokens are skipped unless kept, unknown ids are empty", specials);
  cases.once("text/a table with wrong ends is refused", tables);
  cases.once("text/the pieces joined are the whole decode, cut at the first stop string", whole);
  cases.once("text/no more is held back than a stop string could need", prompt);
  cases.once("text/many long stop strings stay linear", many);
});

}  // namespace
}  // namespace ewe::test

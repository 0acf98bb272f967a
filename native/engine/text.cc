#include "engine/text.h"

#include <algorithm>
#include <utility>

namespace ewe {

Status TextTable::make(std::string bytes, std::vector<uint32_t> ends, std::vector<uint8_t> special, TextTable* out) {
  if (ends.size() != special.size()) return Status::fail(Kind::internal, "text table: %zu ends but %zu special flags", ends.size(), special.size());
  uint32_t last = 0;
  for (size_t i = 0; i < ends.size(); i++) {
    if (ends[i] < last || ends[i] > bytes.size())
      return Status::fail(Kind::internal, "text table: id %zu ends at %u, after %u, of %zu bytes", i, ends[i], last, bytes.size());
    last = ends[i];
  }
  out->bytes_ = std::move(bytes);
  out->ends_ = std::move(ends);
  out->special_ = std::move(special);
  return {};
}

std::string_view TextTable::bytes(int id) const {
  if (!has(id)) return {};
  const uint32_t begin = id > 0 ? ends_[size_t(id) - 1] : 0;
  return std::string_view(bytes_).substr(begin, ends_[size_t(id)] - begin);
}

bool TextTable::special(int id) const { return has(id) && special_[size_t(id)] != 0; }

static constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

void Utf8::push(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (count_ > 0 && (byte < low_ || byte > high_)) {
      out += kReplacement;
      count_ = 0;  // and the byte begins anew
    }
    if (count_ == 0) {
      if (byte < 0x80) {
        out += c;
        continue;
      }
      length_ = byte < 0xC2 ? 0 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : byte < 0xF5 ? 4 : 0;
      if (length_ == 0) {
        out += kReplacement;
        continue;
      }
      // The second byte excludes forms longer than needed, surrogates, and what lies beyond U+10FFFF.
      low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
      high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
    } else {
      low_ = 0x80;
      high_ = 0xBF;
    }
    held_[count_++] = c;
    if (count_ == length_) {
      out.append(held_, size_t(count_));
      count_ = 0;
    }
  }
}

void Utf8::finish(std::string& out) {
  if (count_ > 0) out += kReplacement;
  count_ = 0;
}

TextStream::TextStream(const TextTable& table, const std::vector<std::string>& stops, bool keepSpecial) : table_(&table), keepSpecial_(keepSpecial) {
  for (const std::string& text : stops) {
    std::vector<int> border(text.size(), 0);
    for (size_t i = 1; i < text.size(); i++) {
      int length = border[i - 1];
      while (length > 0 && text[size_t(length)] != text[i]) length = border[size_t(length) - 1];
      border[i] = text[size_t(length)] == text[i] ? length + 1 : 0;
    }
    stops_.push_back({text, std::move(border)});
  }
}

std::string TextStream::push(int id) {
  if (stopped_ >= 0 || (table_->special(id) && !keepSpecial_)) return {};
  const size_t begin = held_.size();
  utf8_.push(table_->bytes(id), held_);
  return release(begin);
}

std::string TextStream::finish() {
  if (stopped_ >= 0) return {};
  const size_t begin = held_.size();
  utf8_.finish(held_);
  std::string text = release(begin);
  return stopped_ >= 0 ? text : text + std::exchange(held_, {});
}

std::string TextStream::release(size_t begin) {
  size_t certain = held_.size();
  for (size_t i = begin; i < held_.size(); i++) {
    for (size_t s = 0; s < stops_.size(); s++) {
      Stop& stop = stops_[s];
      while (stop.matched > 0 && stop.text[size_t(stop.matched)] != held_[i]) stop.matched = stop.border[size_t(stop.matched) - 1];
      if (stop.text[size_t(stop.matched)] == held_[i]) stop.matched++;
      if (size_t(stop.matched) < stop.text.size()) continue;
      if (stopped_ < 0 || stop.text.size() > stops_[size_t(stopped_)].text.size()) stopped_ = int(s);
    }
    if (stopped_ >= 0) {
      std::string text = held_.substr(0, i + 1 - stops_[size_t(stopped_)].text.size());
      held_.clear();
      return text;
    }
  }
  for (const Stop& stop : stops_) certain = std::min(certain, held_.size() - size_t(stop.matched));
  std::string text = held_.substr(0, certain);
  held_.erase(0, certain);
  return text;
}

}  // namespace ewe

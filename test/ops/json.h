// Just enough JSON for fixtures that this project wrote itself: no escapes beyond \", no check of what comes after the value.
#pragma once
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ewe::test {

struct Json {
  double number = 0;
  std::string text;
  std::vector<Json> items;
  std::map<std::string, Json> fields;

  const Json& operator[](const std::string& name) const { return fields.at(name); }
  double get(const std::string& name, double otherwise) const {
    const auto field = fields.find(name);
    return field == fields.end() ? otherwise : field->second.number;
  }
};

class JsonReader {
 public:
  static Json file(const std::string& path) {
    std::ifstream stream(path);
    if (!stream) throw std::runtime_error("can't open " + path + " (the tests run in the repository's root)");
    std::ostringstream all;
    all << stream.rdbuf();
    JsonReader reader(all.str());
    return reader.value();
  }

 private:
  explicit JsonReader(std::string text) : text_(std::move(text)) {}

  char next() {
    at_ = text_.find_first_not_of(" \t\r\n", at_);
    if (at_ == std::string::npos) throw std::runtime_error("JSON ends too early");
    return text_[at_];
  }
  bool skip(char c) {
    if (next() != c) return false;
    at_++;
    return true;
  }
  void expect(char c) {
    if (!skip(c)) throw std::runtime_error(std::string("JSON without '") + c + "' at byte " + std::to_string(at_));
  }
  std::string string() {
    expect('"');
    std::string s;
    for (; text_.at(at_) != '"'; at_++) {
      if (text_[at_] == '\\') at_++;
      s += text_.at(at_);
    }
    at_++;
    return s;
  }
  Json value() {
    Json json;
    const char c = next();
    if (c == '"') {
      json.text = string();
    } else if (skip('[')) {
      if (skip(']')) return json;
      do json.items.push_back(value());
      while (skip(','));
      expect(']');
    } else if (skip('{')) {
      if (skip('}')) return json;
      do {
        std::string name = string();
        expect(':');
        json.fields[name] = value();
      } while (skip(','));
      expect('}');
    } else {
      char* end;
      json.number = std::strtod(text_.c_str() + at_, &end);
      if (end == text_.c_str() + at_) throw std::runtime_error("JSON with no value at byte " + std::to_string(at_));
      at_ = size_t(end - text_.c_str());
    }
    return json;
  }

  std::string text_;
  size_t at_ = 0;
};

}  // namespace ewe::test

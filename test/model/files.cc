#include "files.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "ops/convert.h"

namespace ewe::test {

static std::string readFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("can't open " + path + " (the tests run in the repository's root)");
  std::ostringstream all;
  all << stream.rdbuf();
  return all.str();
}

const Json& Json::operator[](const std::string& name) const {
  const auto field = fields.find(name);
  if (field == fields.end()) throw std::runtime_error("JSON without a field " + name);
  return field->second;
}

static void collect(const Json& json, std::vector<double>& out) {
  if (json.kind == Json::list) {
    for (const Json& item : json.items) collect(item, out);
  } else if (json.kind == Json::numeric) {
    out.push_back(json.number);
  } else {
    throw std::runtime_error("JSON with something else among numbers");
  }
}

std::vector<double> Json::numbers() const {
  std::vector<double> out;
  collect(*this, out);
  return out;
}

namespace {

class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  Json whole() {
    Json json = value();
    skipSpace();
    if (at_ != text_.size()) fail("something behind the value");
    return json;
  }

 private:
  [[noreturn]] void fail(const char* what) const { throw std::runtime_error(std::string("JSON: ") + what + " at byte " + std::to_string(at_)); }
  void skipSpace() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_])) at_++;
  }
  bool skip(const char* word) {
    skipSpace();
    const size_t length = std::strlen(word);
    if (text_.compare(at_, length, word) != 0) return false;
    at_ += length;
    return true;
  }
  std::string string() {
    std::string out;
    for (; at_ < text_.size() && text_[at_] != '"'; at_++) {
      if (text_[at_] == '\\' && !std::strchr("\"\\/", text_[++at_])) fail("an escape that no fixture has");
      out += text_[at_];
    }
    if (!skip("\"")) fail("a string without end");
    return out;
  }
  Json value() {
    Json json;
    if (skip("\"")) {
      json.kind = Json::text;
      json.string = string();
    } else if (skip("[")) {
      json.kind = Json::list;
      if (skip("]")) return json;
      do json.items.push_back(value());
      while (skip(","));
      if (!skip("]")) fail("a list without end");
    } else if (skip("{")) {
      json.kind = Json::object;
      if (skip("}")) return json;
      do {
        if (!skip("\"")) fail("a field without a name");
        const std::string name = string();
        if (!skip(":")) fail("a field without a value");
        json.fields[name] = value();
      } while (skip(","));
      if (!skip("}")) fail("an object without end");
    } else if (skip("true") || skip("false")) {
      json.kind = Json::boolean;
      json.number = text_[at_ - 2] == 'u';
    } else if (!skip("null")) {
      json.kind = Json::numeric;
      char* end;
      json.number = std::strtod(text_.c_str() + at_, &end);
      if (end == text_.c_str() + at_) fail("no value");
      at_ = size_t(end - text_.c_str());
    }
    return json;
  }

  const std::string& text_;
  size_t at_ = 0;
};

}  // namespace

Json parseJson(const std::string& text) { return Parser(text).whole(); }

Json readJson(const std::string& path) { return parseJson(readFile(path)); }

Safetensors::Safetensors(const std::string& path) : path(path), content(readFile(path)) {
  uint64_t length;
  std::memcpy(&length, content.data(), sizeof length);
  const Json header = parseJson(content.substr(8, length));
  for (const auto& [name, entry] : header.fields) {
    if (name == "__metadata__") continue;
    FileTensor& tensor = tensors[name];
    tensor.dtype = entry["dtype"].string;
    for (double size : entry["shape"].numbers()) tensor.shape.push_back(int64_t(size));
    const std::vector<double> range = entry["data_offsets"].numbers();
    tensor.offset = 8 + length + uint64_t(range.at(0));
    tensor.bytes = uint64_t(range.at(1) - range.at(0));
  }
}

static DType dtypeOf(const std::string& name) {
  if (name == "F32") return DType::float32;
  if (name == "F16") return DType::float16;
  if (name == "BF16") return DType::bfloat16;
  throw std::runtime_error("no weights are of dtype " + name);
}

template <typename T>
static std::vector<double> readAs(const char* data, uint64_t bytes) {
  std::vector<T> values(bytes / sizeof(T));
  std::memcpy(values.data(), data, bytes);
  return {values.begin(), values.end()};
}

std::vector<double> Safetensors::values(const std::string& name) const {
  const FileTensor& tensor = tensors.at(name);
  const char* data = content.data() + tensor.offset;
  if (tensor.dtype == "F64") return readAs<double>(data, tensor.bytes);
  if (tensor.dtype == "I64") return readAs<int64_t>(data, tensor.bytes);
  const DType type = dtypeOf(tensor.dtype);
  std::vector<float> values(tensor.bytes / sizeOf(type));
  widen(data, type, int64_t(values.size()), values.data());
  return {values.begin(), values.end()};
}

std::map<std::string, StoredTensor> Safetensors::stored() const {
  std::map<std::string, StoredTensor> out;
  for (const auto& [name, tensor] : tensors) {
    const int64_t columns = tensor.shape.size() > 1 ? tensor.shape[1] : 1;
    out[name] = {0, tensor.offset, dtypeOf(tensor.dtype), tensor.shape.at(0), columns, columns, 1, name};
  }
  return out;
}

TempFile::TempFile() {
  path_ = std::filesystem::temp_directory_path() / "ewe-cases-XXXXXX";
  file_ = mkstemp(path_.data());
  if (file_ < 0) throw std::runtime_error("can't make a temporary file " + path_);
}

TempFile::~TempFile() {
  close(file_);
  unlink(path_.c_str());
}

void TempFile::append(const void* data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t written = write(file_, static_cast<const char*>(data) + done, bytes - done);
    if (written <= 0) throw std::runtime_error("can't write " + path_);
    done += size_t(written);
  }
  size_ += bytes;
}

}  // namespace ewe::test

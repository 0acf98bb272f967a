// What these tests read by themselves, because the product reads it in TypeScript: JSON and safetensors. Made for the files of test/fixtures; what
// they do not expect ends the case with an exception.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/weights.h"

namespace ewe::test {

struct Json {
  enum Kind { null, boolean, numeric, text, list, object } kind = null;
  double number = 0;  // true is 1
  std::string string;
  std::vector<Json> items;
  std::map<std::string, Json> fields;

  bool has(const std::string& name) const { return fields.count(name) > 0; }
  const Json& operator[](const std::string& name) const;
  // The numbers of nested lists, in order.
  std::vector<double> numbers() const;
};

Json parseJson(const std::string& text);
Json readJson(const std::string& path);

// One tensor of a safetensors file. I64 and F64 are read by values() only.
struct FileTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t offset, bytes;  // offset from the beginning of the file
};

struct Safetensors {
  std::string path, content;
  std::map<std::string, FileTensor> tensors;

  explicit Safetensors(const std::string& path);
  std::vector<double> values(const std::string& name) const;
  // As loadWeights wants it; a vector has one column.
  std::map<std::string, StoredTensor> stored() const;
};

// A file of the test's own, gone with its owner.
class TempFile {
 public:
  TempFile();
  ~TempFile();
  TempFile(const TempFile&) = delete;
  const std::string& path() const { return path_; }
  void append(const void* data, size_t bytes);
  uint64_t size() const { return size_; }

 private:
  std::string path_;
  int file_;
  uint64_t size_ = 0;
};

}  // namespace ewe::test

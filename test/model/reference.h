// What a model with these weights computes, in double precision and by the plainest means: the architecture from its definition, over the numbers
// that the device gives back. For what no other program computes: int8.
#pragma once
#include "cases.h"
#include "model/weights.h"

namespace ewe::test {

struct Reference {
  std::vector<Doubles> hidden;  // [layers + 1] of [rows, width]: before each layer, and after the final norm
  Doubles logits;               // [rows, vocab]
};

class ReferenceModel {
 public:
  ReferenceModel(Run& run, const Spec& spec, const ewe::Weights& weights) : run_(run), spec_(spec), weights_(weights) {}
  Reference operator()(const Ints& tokens) const;  // one sequence from position 0

 private:
  Doubles linear(const Doubles& x, const Matrix& matrix) const;
  Doubles norm(const Doubles& x, const float* weight, const float* bias) const;
  Doubles attention(Doubles projection) const;
  Floats numbers(const float* device, int count) const { return device ? run_.read(device, size_t(count), DType::float32) : Floats(size_t(count)); }

  Run& run_;
  const Spec& spec_;
  const ewe::Weights& weights_;
};

}  // namespace ewe::test

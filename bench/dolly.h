// One layer of a Dolly model on a card, with random numbers made there: what the benches of its ops run on.
#pragma once
#include <vector>

#include "card.h"

namespace ewe::test {

struct DollySize {
  const char* name;
  int width, heads, headSize, rotary;
};
constexpr DollySize kDollySizes[] = {{"3b", 2560, 32, 80, 20}, {"7b", 4096, 32, 128, 32}, {"12b", 5120, 40, 128, 32}};
constexpr int kDollyVocab = 50280, kDollyContext = 2048;

// Rows of a step. prompt: of one sequence, from position 0 on. Else each of its own, at the last of `context` positions. recorded: for so many rows
// and `planned` positions, of which only these are there.
struct DollyStep {
  int rows;
  bool prompt = false;
  int context = kDollyContext;
  int recordedRows = 0, planned = 0;
};

class DollyLayer {
 public:
  // More than one copy of the matrices where the cards' caches could hold one.
  DollyLayer(Run& run, cuda::Cuda& card, const DollySize& size, DType weights, const DollyStep& step)
      : run(run),
        made(run, card, run.ops.activationType(weights), 1),
        numbers(run, card, weights, 0.02),
        type(run.ops.activationType(weights)),
        given(step),
        size(run.small() ? DollySize{"", size.headSize, 1, size.headSize, size.rotary} : size),
        weights(weights),
        planned(step.recordedRows ? step.recordedRows : step.rows),
        one(run.array(Floats(size_t(8) * size_t(this->size.width), 1.f), DType::float32)),
        scale(run.array(Floats(size_t(run.small() ? 1024 : kDollyVocab), 0.02f / 74), DType::float32)),
        live(run.ints({step.rows})) {
    Limits limits = {};
    limits.rows = planned;
    limits.width = this->size.width;
    limits.qkv = 3 * limits.width;
    limits.inner = inner();
    limits.heads = this->size.heads;
    limits.headSize = this->size.headSize;
    limits.positions = positions();
    limits.vocab = kDollyVocab;
    limits.type = type;
    run.check(run.ops.reserve(limits));
  }

  int width() const { return size.width; }
  int inner() const { return 4 * size.width; }
  int context() const { return given.prompt ? planned : run.small() ? std::min(given.context, 60) : given.context; }
  int positions() const { return std::max(context(), run.small() ? std::min(given.planned, 128) : given.planned); }
  // The matrices [n, k] that are multiplied in turn.
  std::vector<Matrix> matrices(int n, int k) {
    const size_t bytes = run.ops.matrixBytes(n, k, weights);
    const size_t copies = run.small() ? 1 : std::min<size_t>(8, ((size_t(256) << 20) + bytes - 1) / bytes);
    std::vector<Matrix> all;
    for (size_t i = 0; i < copies; i++) {
      kept.push_back(numbers.buffer(bytes));
      all.push_back({kept.back().data(), nullptr, n, k, weights, weights == DType::int8 ? scale.floats() : nullptr});
    }
    return all;
  }
  void* activations(size_t count) { return keep(made.buffer(count * size_t(sizeOf(type)))); }
  // A residual stream: 16-bit numbers, read as if they were the float32 that they are not, could be anything.
  void* residual() {
    Random random(5);
    Floats values(size_t(planned) * size_t(width()));
    for (float& value : values) value = float(random.uniform() - 0.5);
    Array array = run.array(values, DType::float32);
    return keep(std::move(array.device));
  }
  void* room(size_t bytes) { return keep(Buffer(run, bytes)); }

  Step step() {
    constexpr int kPage = 64;
    const int pages = (positions() + kPage - 1) / kPage;
    std::vector<SequenceRows> sequences;
    for (int i = 0; i < (given.prompt ? 1 : planned); i++) {
      Ints own;
      for (int page = 0; page < pages; page++) own.push_back(i * pages + page);
      sequences.push_back({given.prompt ? 0 : context() - 1, given.prompt ? planned : 1, own});
    }
    pageCount = int(sequences.size()) * pages;
    Step made = run.step(sequences, given.prompt ? 1 : 0);
    if (given.recordedRows) made.rows.live = live.data();
    return made;
  }
  // Behind step(): room for all of its pages.
  Cache cache() {
    const size_t block = run.ops.blockBytes(64, size.headSize, type);
    return {keep(made.buffer(size_t(pageCount) * 2 * size_t(size.heads) * block)), type, 64, size.heads, size.headSize, (long long)block};
  }

  Run& run;
  Made made, numbers;
  const DType type;
  const DollyStep given;
  const DollySize size;
  const DType weights;
  const int planned;  // rows of the launch
  const Array one, scale;
  const IntArray live;

 private:
  void* keep(Buffer buffer) {
    kept.push_back(std::move(buffer));
    return kept.back().data();
  }
  std::vector<Buffer> kept;
  int pageCount = 0;
};

}  // namespace ewe::test

// Decode steps: the same bits in batches of 1, 2, 7 and 33, with any neighbours and page order, and eager or as a replayed recording.
#include <algorithm>

#include "../model/models.h"
#include "engine/runner.h"

namespace ewe::test {
namespace {

constexpr int kSequences = 33, kSteps = 4, kPageSize = 16;
const std::atomic<bool> kNever{false};

// What a sequence drew: tokens and the bits of their log-probabilities, step by step.
struct Drew {
  Ints tokens;
  Floats logprobs;
};

struct Batch {
  const char* what;
  int size;
  bool record, backwards;  // pages from the last one down
};

Ints promptOf(int sequence) {
  Random random(uint64_t(100 + sequence));
  Ints tokens(size_t(3 + sequence % 40));
  for (int& token : tokens) token = random.below(smallSpec().vocab);
  return tokens;
}

// All sequences for kSteps tokens each, `size` at a time.
std::vector<Drew> decodeAll(Run& run, const OwnModel& model, DType type, const Batch& batch) {
  EngineOptions options{type, 64, kSequences, kPageSize, 0, 256};
  options.recordSteps = batch.record;
  Threads team(1);
  Runner runner(run.ops);
  run.check(runner.load(
      model.checkpoint, options, team, [](uint64_t, uint64_t) {}, kNever));
  std::vector<Drew> drew(kSequences);
  const int perSequence = pagesPerSequence(options), last = pageCount(options) - 1;
  for (int first = 0; first < kSequences; first += batch.size) {
    const int count = std::min(batch.size, kSequences - first);
    std::vector<Ints> pages(static_cast<size_t>(count)), prompts;
    std::vector<Piece> pieces;
    std::vector<Sampling> rows(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) {
      for (int page = 0; page < perSequence; page++)
        pages[size_t(i)].push_back(batch.backwards ? last - i * perSequence - page : i * perSequence + page);
      prompts.push_back(promptOf(first + i));
      rows[size_t(i)] = {0.8f, 0.9f, 0, 1, 0, 0, uint64_t(first + i), 0, 0, nullptr, 0};
      run.check(runner.run({{prompts.back().data(), 0, int(prompts.back().size()), &pages[size_t(i)], true}}, kNever));
    }
    // The last prompt token once more, as a generated row: all steps are decode steps.
    Ints tokens;
    for (const Ints& prompt : prompts) tokens.push_back(prompt.back());
    for (int step = 0; step < kSteps; step++) {
      pieces.clear();
      for (int i = 0; i < count; i++) {
        const int position = int(prompts[size_t(i)].size()) - 1 + step;
        pieces.push_back({&tokens[size_t(i)], position, 1, &pages[size_t(i)], false});
        rows[size_t(i)].position = unsigned(position + 1);
      }
      std::vector<Drawn> drawn;
      run.check(runner.decode(pieces, rows, kNever, drawn));
      for (int i = 0; i < count; i++) {
        tokens[size_t(i)] = drawn[size_t(i)].token;
        drew[size_t(first + i)].tokens.push_back(drawn[size_t(i)].token);
        drew[size_t(first + i)].logprobs.push_back(drawn[size_t(i)].logprob);
      }
    }
  }
  return drew;
}

void batches(Run& run, DType type) {
  if (!run.needs(type)) return;
  const OwnModel model = randomModel(smallSpec(), DType::float32, 21);
  const std::vector<Drew> alone = decodeAll(run, model, type, {"alone", 1, false, false});
  int different = 0;
  for (const Drew& one : alone) different += one.tokens != alone[0].tokens;
  run.expect(different > kSequences / 2, "the sequences draw different tokens");
  for (const Batch& batch :
       {Batch{"alone, recorded", 1, true, false}, Batch{"2 together", 2, false, true}, Batch{"2 together, recorded", 2, true, false},
        Batch{"7 together", 7, false, false}, Batch{"7 together, recorded", 7, true, true}, Batch{"33 together", 33, false, true},
        Batch{"33 together, recorded", 33, true, false}}) {
    const std::vector<Drew> other = decodeAll(run, model, type, batch);
    for (int i = 0; i < kSequences; i++) {
      const std::string what = std::string(batch.what) + ": sequence " + std::to_string(i);
      run.expect(other[size_t(i)].tokens == alone[size_t(i)].tokens, what + " drew other tokens");
      run.same(what, other[size_t(i)].logprobs, alone[size_t(i)].logprobs);
    }
  }
}

// A device without recordings says so, and one with them replays only what it has.
void refusals(Run& run) {
  run.expect(!run.ops.recorded(7), "nothing was recorded yet");
  run.expect(!run.ops.replay(7).ok(), "a recording that does not exist was replayed");
  run.expect(!run.ops.endRecord().ok(), "a recording that was not begun has ended");
  if (run.ops.records()) return;
  run.expect(!run.ops.record(7).ok(), "a device that records nothing began a recording");
}

const Suite suite([](Cases& cases) {
  for (const DType type : {DType::float32, DType::bfloat16, DType::float16, DType::int8}) {
    cases.test(std::string("engine/same bits in every batch, eager and recorded, ") + nameOf(type), [type](Run& run) { batches(run, type); });
  }
  cases.test("engine/recordings that are not there are refused", refusals);
});

}  // namespace
}  // namespace ewe::test

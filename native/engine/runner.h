// A model on a device with all its arenas: runs the steps that the loop composes.
#pragma once
#include <atomic>
#include <functional>
#include <vector>

#include "engine/layout.h"
#include "engine/request.h"
#include "model/forward.h"

namespace ewe {

// A sequence's share of a step: `count` tokens from `position` on, with the pages that hold positions 0 .. position + count - 1.
struct Piece {
  const int* tokens;
  int position, count;
  const std::vector<int>* pages;
  bool prompt;  // token class
};

class Runner {
 public:
  explicit Runner(Ops& ops) : ops_(ops) {}
  ~Runner();
  Runner(const Runner&) = delete;

  Status load(const Checkpoint& checkpoint, const EngineOptions& options, Threads& threads, const std::function<void(uint64_t, uint64_t)>& progress,
              const std::atomic<bool>& cancel);

  // Pieces with prompt tokens first. At most options.stepRows rows and options.maxBatch pieces.
  Status run(const std::vector<Piece>& pieces, const std::atomic<bool>& stop, Save* save = nullptr);
  // Logits of rows of the last run, at most logitRows(options).
  Status head(const std::vector<int>& rows, Save* save = nullptr);
  // One more token of each piece, all of them generated: run, head and sample, as one recording where the device replays steps.
  Status decode(const std::vector<Piece>& pieces, const std::vector<Sampling>& sampling, const std::atomic<bool>& stop, std::vector<Drawn>& out);
  // Draws from the logits of the last head: row i with sampling[i]; with `shared`, all from its first row.
  Status sample(const std::vector<Sampling>& sampling, bool shared, std::vector<Drawn>& out);
  // targets[i] < 0: none. Results are [rows], [rows, top].
  Status logProbs(const std::vector<int>& targets, int top, float* logprobs, int* topTokens, float* topLogprobs);
  Status logits(int rows, float* out);

  // The ids that the repetition penalty of a history slot knows; slots are 0 .. logitRows(options) - 1.
  Status appendHistory(int slot, int at, const int* tokens, int count);
  const int* history(int slot) const;
  // What is added to logits in a row's draw, of the same slots. At most mostAdjusted(options) ids.
  Status setAdjustments(int slot, const std::vector<int>& ids, const std::vector<float>& amounts, Sampling& sampling);
  Status copyPage(int from, int to);

  const Layout& layout() const { return layout_; }
  const EngineOptions& options() const { return options_; }
  const Spec& spec() const { return model_.spec; }

 private:
  template <typename T>
  T* step(size_t offset) const {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(arenas_.step) + offset);
  }
  template <typename T>
  T* host(size_t offset) {
    return reinterpret_cast<T*>(host_.data() + offset);
  }
  Status stage(const std::vector<Piece>& pieces, Rows& rows, int& maxPositions);
  Status step(const Rows& rows, int maxPositions, const std::atomic<bool>& stop);
  Sample sampleOp(int rows, bool shared) const;
  Status fetch(const std::vector<Sampling>& sampling, std::vector<Drawn>& out);
  Status upload(size_t offset, size_t bytes) { return ops_.upload(step<unsigned char>(offset), host_.data() + offset, bytes); }

  Ops& ops_;
  EngineOptions options_{};
  Layout layout_{};
  StepLayout stepLayout_{};
  Model model_{};
  Activations activations_{};
  struct {
    void *weights = nullptr, *cache = nullptr, *activations = nullptr, *rotary = nullptr, *step = nullptr;
  } arenas_;
  std::vector<unsigned char> host_;   // mirror of the uploaded part of the step arena
  std::vector<unsigned char> drawn_;  // what sampling returned
};

}  // namespace ewe

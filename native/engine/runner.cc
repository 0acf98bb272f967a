#include "engine/runner.h"

#include <algorithm>
#include <cstring>

namespace ewe {

// Recordings serve contexts up to this, or twice, four times ... this.
constexpr int kPositionsBucket = 256;

Runner::~Runner() {
  for (void* arena : {arenas_.weights, arenas_.cache, arenas_.activations, arenas_.rotary, arenas_.step}) {
    if (arena) ops_.release(arena);
  }
}

Status Runner::load(const Checkpoint& checkpoint, const EngineOptions& options, Threads& threads,
                    const std::function<void(uint64_t, uint64_t)>& progress, const std::atomic<bool>& cancel) {
  const Spec& s = checkpoint.spec;
  options_ = options;
  layout_ = layoutOf(s, ops_, options);
  stepLayout_ = stepLayoutOf(options);
  model_.spec = s;

  EWE_TRY(ops_.allocate(&arenas_.weights, layout_.weights()));
  EWE_TRY(ops_.allocate(&arenas_.cache, layout_.cache));
  EWE_TRY(ops_.allocate(&arenas_.activations, layout_.activations()));
  EWE_TRY(ops_.allocate(&arenas_.rotary, layout_.rotary));
  EWE_TRY(ops_.allocate(&arenas_.step, layout_.step));
  EWE_TRY(ops_.reserve(limitsOf(s, ops_, options)));

  auto* at = static_cast<unsigned char*>(arenas_.activations);
  auto take = [&at](size_t bytes) { return at += bytes, at - bytes; };
  activations_.x = take(layout_.x);
  activations_.a = take(layout_.a);
  activations_.q = take(layout_.q);
  activations_.wide = take(layout_.wide);
  activations_.logits = reinterpret_cast<float*>(take(layout_.logits));
  activations_.type = ops_.activationType(options.weights);
  activations_.residualType = ops_.residualType(options.weights);

  const size_t entries = size_t(options.maxContext) * size_t(s.rotarySize / 2);
  std::vector<float> cos(entries), sin(entries);
  rotaryTables(s, options.maxContext, cos.data(), sin.data());
  auto* rotary = static_cast<unsigned char*>(arenas_.rotary);
  model_.rotary.cos = reinterpret_cast<float*>(rotary);
  model_.rotary.sin = reinterpret_cast<float*>(rotary + layout_.rotary / 2);
  if (entries > 0) {
    EWE_TRY(ops_.upload(rotary, cos.data(), entries * sizeof(float)));
    EWE_TRY(ops_.upload(rotary + layout_.rotary / 2, sin.data(), entries * sizeof(float)));
  }

  model_.cache = {arenas_.cache, activations_.type, options.pageSize, s.kvHeads, s.headSize, (long long)layout_.cacheBlock};
  model_.cacheLayer = (long long)layout_.cacheLayer;
  host_.assign(stepLayout_.uploaded, 0);
  return loadWeights(checkpoint, options.weights, ops_, threads, arenas_.weights, model_.weights, progress, cancel);
}

// Fills the host's mirror of the step arena; `rows` says what there is.
Status Runner::stage(const std::vector<Piece>& pieces, Rows& rows, int& maxPositions) {
  const StepLayout& l = stepLayout_;
  int *token = host<int>(l.token), *position = host<int>(l.position), *sequence = host<int>(l.sequence), *start = host<int>(l.start);
  const int stride = pagesPerSequence(options_);
  rows = {};
  maxPositions = 0;
  for (size_t i = 0; i < pieces.size(); i++) {
    const Piece& piece = pieces[i];
    if (int(i) >= options_.maxBatch || rows.rows + piece.count > limitsOf(model_.spec, ops_, options_).rows ||
        piece.position + piece.count > options_.maxContext || int(piece.pages->size()) > stride) {
      return Status::fail(Kind::internal, "a step of %zu pieces exceeds its buffers", pieces.size());
    }
    start[i] = rows.rows;
    std::memcpy(host<int>(l.pages) + i * size_t(stride), piece.pages->data(), piece.pages->size() * sizeof(int));
    for (int j = 0; j < piece.count; j++, rows.rows++) {
      token[rows.rows] = piece.tokens[j];
      position[rows.rows] = piece.position + j;
      sequence[rows.rows] = int(i);
    }
    maxPositions = std::max(maxPositions, piece.position + piece.count);
    if (piece.prompt) {
      rows.promptRows = rows.rows;
      rows.promptSequences = int(i) + 1;
    }
  }
  start[pieces.size()] = rows.rows;
  rows.sequences = int(pieces.size());
  rows.pagesStride = stride;
  rows.token = step<int>(l.token);
  rows.position = step<int>(l.position);
  rows.sequence = step<int>(l.sequence);
  rows.start = step<int>(l.start);
  rows.pages = step<int>(l.pages);
  return {};
}

Status Runner::run(const std::vector<Piece>& pieces, const std::atomic<bool>& stop, Save* save) {
  Rows rows;
  int maxPositions;
  EWE_TRY(stage(pieces, rows, maxPositions));
  EWE_TRY(upload(0, stepLayout_.logitRows));
  return forward(ops_, model_, activations_, {rows, maxPositions}, stop, save);
}

// The least of 1, 2, 3, 4, 6, 8, 12, 16, ... that is not below n, but at most `most`: recordings are few, and at most a third of their rows idle.
static int bucketOf(int n, int most) {
  int bucket = 1;
  while (bucket < n) bucket = bucket % 3 == 0 ? bucket / 3 * 4 : bucket < 2 ? 2 : bucket / 2 * 3;
  return std::min(bucket, most);
}

// The work of a decode step of at most `rows` rows: logits and draws of all of them.
Status Runner::step(const Rows& rows, int maxPositions, const std::atomic<bool>& stop) {
  EWE_TRY(forward(ops_, model_, activations_, {rows, maxPositions}, stop, nullptr));
  EWE_TRY(ewe::head(ops_, model_, activations_, step<int>(stepLayout_.logitRows), rows.rows, rows.live, nullptr));
  Sample op = sampleOp(rows.rows, false);
  op.live = rows.live;
  return ops_.sample(op);
}

Status Runner::decode(const std::vector<Piece>& pieces, const std::vector<Sampling>& sampling, const std::atomic<bool>& stop,
                      std::vector<Drawn>& out) {
  const StepLayout& l = stepLayout_;
  Rows rows;
  int maxPositions;
  EWE_TRY(stage(pieces, rows, maxPositions));
  if (rows.promptRows != 0 || rows.rows != int(pieces.size()) || sampling.size() != pieces.size()) {
    return Status::fail(Kind::internal, "a decode step of %zu pieces has %d rows, %d of prompts", pieces.size(), rows.rows, rows.promptRows);
  }
  for (int i = 0; i < rows.rows; i++) host<int>(l.logitRows)[i] = i;
  std::memcpy(host<Sampling>(l.sampling), sampling.data(), sampling.size() * sizeof(Sampling));
  *host<int>(l.live) = rows.rows;
  EWE_TRY(upload(0, l.uploaded));
  if (!options_.recordSteps || !ops_.records()) {
    EWE_TRY(step(rows, maxPositions, stop));
    return fetch(sampling, out);
  }
  // Recorded for the most rows and positions of its bucket; the rows of this time are counted on the device.
  rows.live = step<int>(l.live);
  rows.rows = rows.sequences = bucketOf(rows.rows, options_.maxBatch);
  for (int positions = kPositionsBucket;; positions *= 2) {
    if (positions < maxPositions && positions < options_.maxContext) continue;
    maxPositions = std::min(positions, options_.maxContext);
    break;
  }
  const unsigned long long key = (unsigned long long)rows.rows << 32 | unsigned(maxPositions);
  if (ops_.recorded(key)) {
    EWE_TRY(ops_.replay(key));
  } else {
    EWE_TRY(ops_.record(key));
    Status status = step(rows, maxPositions, stop);
    if (!status.ok()) {
      ops_.dropRecord();
      return status;
    }
    EWE_TRY(ops_.endRecord());
  }
  return fetch(sampling, out);
}

Status Runner::head(const std::vector<int>& rows, Save* save) {
  if (int(rows.size()) > logitRows(options_)) return Status::fail(Kind::internal, "logits of %zu rows exceed the buffer", rows.size());
  std::memcpy(host<int>(stepLayout_.logitRows), rows.data(), rows.size() * sizeof(int));
  EWE_TRY(upload(stepLayout_.logitRows, rows.size() * sizeof(int)));
  return ewe::head(ops_, model_, activations_, step<int>(stepLayout_.logitRows), int(rows.size()), nullptr, save);
}

Sample Runner::sampleOp(int rows, bool shared) const {
  const StepLayout& l = stepLayout_;
  Sample op{};
  op.logits = activations_.logits;
  op.sampling = step<Sampling>(l.sampling);
  op.token = step<int>(l.drawn);
  op.logprob = step<float>(l.logprob);
  op.topToken = step<int>(l.topToken);
  op.topLogprob = step<float>(l.topLogprob);
  op.stride = shared ? 0 : model_.spec.vocab;
  op.rows = rows;
  op.vocab = model_.spec.vocab;
  op.topStride = kTopLogprobs;
  return op;
}

Status Runner::sample(const std::vector<Sampling>& sampling, bool shared, std::vector<Drawn>& out) {
  const StepLayout& l = stepLayout_;
  const size_t rows = sampling.size();
  if (int(rows) > logitRows(options_)) return Status::fail(Kind::internal, "sampling of %zu rows exceeds the buffer", rows);
  std::memcpy(host<Sampling>(l.sampling), sampling.data(), rows * sizeof(Sampling));
  EWE_TRY(upload(l.sampling, rows * sizeof(Sampling)));
  EWE_TRY(ops_.sample(sampleOp(int(rows), shared)));
  return fetch(sampling, out);
}

// What sampling left, in one copy, or two where log-probabilities are wanted.
Status Runner::fetch(const std::vector<Sampling>& sampling, std::vector<Drawn>& out) {
  const StepLayout& l = stepLayout_;
  const size_t rows = sampling.size();
  int most = 0;
  for (const Sampling& s : sampling) most = std::max(most, s.top);
  drawn_.resize(most > 0 ? l.total - l.drawn : l.topToken - l.drawn);
  EWE_TRY(ops_.download(drawn_.data(), step<unsigned char>(l.drawn), drawn_.size()));
  const auto at = [&](size_t offset) { return drawn_.data() + (offset - l.drawn); };
  const int *tokens = reinterpret_cast<const int*>(at(l.drawn)), *topTokens = reinterpret_cast<const int*>(at(l.topToken));
  const float *logprobs = reinterpret_cast<const float*>(at(l.logprob)), *topLogprobs = reinterpret_cast<const float*>(at(l.topLogprob));
  out.clear();
  for (size_t i = 0; i < rows; i++) {
    Drawn drawn{tokens[i], logprobs[i], {}, {}};
    if (sampling[i].top > 0) {
      drawn.topTokens.assign(&topTokens[i * kTopLogprobs], &topTokens[i * kTopLogprobs] + sampling[i].top);
      drawn.topLogprobs.assign(&topLogprobs[i * kTopLogprobs], &topLogprobs[i * kTopLogprobs] + sampling[i].top);
    }
    out.push_back(std::move(drawn));
  }
  return {};
}

Status Runner::logProbs(const std::vector<int>& targets, int top, float* logprobs, int* topTokens, float* topLogprobs) {
  const StepLayout& l = stepLayout_;
  const size_t rows = targets.size();
  EWE_TRY(ops_.upload(step<int>(l.target), targets.data(), rows * sizeof(int)));
  LogProbs op{};
  op.logits = activations_.logits;
  op.target = step<int>(l.target);
  op.logprob = step<float>(l.logprob);
  op.topToken = step<int>(l.topToken);
  op.topLogprob = step<float>(l.topLogprob);
  op.stride = model_.spec.vocab;
  op.rows = int(rows);
  op.vocab = model_.spec.vocab;
  op.top = top;
  EWE_TRY(ops_.logProbs(op));
  EWE_TRY(ops_.download(logprobs, op.logprob, rows * sizeof(float)));
  if (top == 0) return {};
  EWE_TRY(ops_.download(topTokens, op.topToken, rows * size_t(top) * sizeof(int)));
  return ops_.download(topLogprobs, op.topLogprob, rows * size_t(top) * sizeof(float));
}

Status Runner::logits(int rows, float* out) {
  return ops_.download(out, activations_.logits, size_t(rows) * size_t(model_.spec.vocab) * sizeof(float));
}

const int* Runner::history(int slot) const { return step<int>(stepLayout_.history) + size_t(slot) * size_t(options_.maxContext); }

Status Runner::appendHistory(int slot, int at, const int* tokens, int count) {
  return ops_.upload(const_cast<int*>(history(slot)) + at, tokens, size_t(count) * sizeof(int));
}

Status Runner::setAdjustments(int slot, const std::vector<int>& ids, const std::vector<float>& amounts, Sampling& sampling) {
  const size_t most = size_t(mostAdjusted(options_)), first = size_t(slot) * most;
  if (ids.size() > most) return Status::fail(Kind::internal, "%zu adjusted logits of at most %zu", ids.size(), most);
  int* const id = step<int>(stepLayout_.adjustedId) + first;
  float* const amount = step<float>(stepLayout_.adjustment) + first;
  sampling.adjusted = int(ids.size());
  sampling.adjustedId = id;
  sampling.adjustment = amount;
  if (ids.empty()) return {};
  EWE_TRY(ops_.upload(id, ids.data(), ids.size() * sizeof(int)));
  return ops_.upload(amount, amounts.data(), amounts.size() * sizeof(float));
}

Status Runner::copyPage(int from, int to) { return ops_.copyPage(model_.cache, model_.spec.layers, model_.cacheLayer, from, to); }

}  // namespace ewe

#include "engine/generation.h"

#include <algorithm>

namespace ewe {

Generation::Generation(int id, const Request& request, Runner& runner, Pages& pages, const TextTable& text, std::vector<int> promptPages)
    : id_(id),
      request_(request),
      runner_(runner),
      pages_(pages),
      promptPages_(std::move(promptPages)),
      generated_(size_t(request.n)),
      live_(request.n) {
  for (int i = 0; i < request.n; i++) {
    sequences_.push_back({i, {}, int(request.tokens.size()), -1, TextStream(text, request.stop, request.keepSpecial)});
  }
}

Generation::~Generation() {
  for (Sequence& sequence : sequences_) retire(sequence);
  for (int page : promptPages_) pages_.release(page);
}

Sampling Generation::sampling(const Sequence& sequence, int slot) const {
  Sampling s{};
  s.temperature = request_.temperature;
  s.topP = request_.topP;
  s.minP = request_.minP;
  s.repetitionPenalty = request_.repetitionPenalty;
  s.topK = request_.topK;
  s.top = std::max(request_.logprobs, 0);
  s.seed = request_.seed;
  s.sample = unsigned(sequence.index);
  s.position = unsigned(sequence.length);
  s.history = runner_.history(slot);
  s.historyLength = request_.repetitionPenalty == 1 ? 0 : sequence.length;
  return s;
}

Status Generation::penalise(int slot, int at, const int* tokens, int count) {
  return request_.repetitionPenalty == 1 ? Status() : runner_.appendHistory(slot, at, tokens, count);
}

Status Generation::first(std::vector<Event>& events) {
  // All samples have the prompt as their history: one slot serves them.
  EWE_TRY(penalise(0, 0, request_.tokens.data(), int(request_.tokens.size())));
  const size_t most = size_t(logitRows(runner_.options()));
  for (size_t begin = 0; begin < sequences_.size(); begin += most) {
    const size_t end = std::min(sequences_.size(), begin + most);
    std::vector<Sampling> rows;
    for (size_t i = begin; i < end; i++) rows.push_back(sampling(sequences_[i], 0));
    std::vector<Drawn> drawn;
    EWE_TRY(runner_.sample(rows, true, drawn));
    for (size_t i = begin; i < end; i++) EWE_TRY(accept(sequences_[i], -1, drawn[i - begin], events));
  }
  return {};
}

// The sample's own copy of the prompt's part-filled last page; whole pages are shared.
Status Generation::activate(Sequence& sequence, int slot) {
  const int pageSize = runner_.options().pageSize, prompt = int(request_.tokens.size());
  for (int i = 0; i < prompt / pageSize; i++) {
    pages_.share(promptPages_[i]);
    sequence.pages.push_back(promptPages_[i]);
  }
  if (prompt % pageSize != 0) {
    const int from = promptPages_[prompt / pageSize];
    if (request_.n == 1) {
      pages_.share(from);
      sequence.pages.push_back(from);
    } else {
      EWE_TRY(grow(sequence));
      EWE_TRY(runner_.copyPage(from, sequence.pages.back()));
    }
  }
  EWE_TRY(penalise(slot, 0, request_.tokens.data(), prompt));
  const std::vector<int>& tokens = generated_[size_t(sequence.index)];
  return penalise(slot, prompt, tokens.data(), int(tokens.size()));
}

Status Generation::grow(Sequence& sequence) {
  const int page = pages_.take();
  if (page < 0) return Status::fail(Kind::internal, "the cache has no page left: %d of %d in use", pages_.used(), pages_.count());
  sequence.pages.push_back(page);
  return {};
}

void Generation::retire(Sequence& sequence) {
  for (int page : sequence.pages) pages_.release(page);
  sequence.pages.clear();
}

Status Generation::step(const std::atomic<bool>& stop, std::vector<Event>& events) {
  for (size_t i = 0; i < active_.size(); i++) {
    if (!sequences_[size_t(active_[i])].done) continue;
    // Keep the slots dense: the last one moves here, with its history.
    retire(sequences_[size_t(active_[i])]);
    const int moved = active_.back();
    active_.pop_back();
    if (i < active_.size()) {
      active_[i] = moved;
      if (!sequences_[size_t(moved)].done) {
        EWE_TRY(penalise(int(i), 0, request_.tokens.data(), int(request_.tokens.size())));
        const std::vector<int>& tokens = generated_[size_t(moved)];
        EWE_TRY(penalise(int(i), int(request_.tokens.size()), tokens.data(), int(tokens.size())));
      }
      i--;
    }
  }
  while (int(active_.size()) < runner_.options().maxBatch && waiting_ < int(sequences_.size())) {
    Sequence& sequence = sequences_[size_t(waiting_++)];
    if (sequence.done) continue;
    EWE_TRY(activate(sequence, int(active_.size())));
    active_.push_back(sequence.index);
  }

  const int pageSize = runner_.options().pageSize;
  std::vector<Piece> pieces;
  std::vector<Sampling> rows;
  for (size_t slot = 0; slot < active_.size(); slot++) {
    Sequence& sequence = sequences_[size_t(active_[slot])];
    if ((sequence.length - 1) / pageSize >= int(sequence.pages.size())) EWE_TRY(grow(sequence));
    pieces.push_back({&sequence.last, sequence.length - 1, 1, &sequence.pages, false});
    rows.push_back(sampling(sequence, int(slot)));
  }
  std::vector<Drawn> drawn;
  EWE_TRY(runner_.decode(pieces, rows, stop, drawn));
  for (size_t slot = 0; slot < active_.size(); slot++) {
    EWE_TRY(accept(sequences_[size_t(active_[slot])], int(slot), drawn[slot], events));
  }
  return {};
}

Status Generation::accept(Sequence& sequence, int slot, Drawn& drawn, std::vector<Event>& events) {
  // The sampler gives every log-probability of a row with a NaN as NaN.
  if (drawn.logprob != drawn.logprob) {
    return Status::fail(Kind::numeric, "the logits at position %d are not numbers: the weights are damaged, or overflow their dtype",
                        sequence.length - 1);
  }
  Event event;
  event.request = id_;
  event.sample = sequence.index;
  event.token = drawn.token;
  if (request_.logprobs >= 0) {
    event.hasLogprob = true;
    event.logprob = drawn.logprob;
    event.topTokens = std::move(drawn.topTokens);
    event.topLogprobs = std::move(drawn.topLogprobs);
  }
  std::vector<int>& tokens = generated_[size_t(sequence.index)];
  tokens.push_back(drawn.token);
  if (slot >= 0) EWE_TRY(penalise(slot, sequence.length, &drawn.token, 1));
  sequence.last = drawn.token;
  sequence.length++;

  if (std::find(request_.endIds.begin(), request_.endIds.end(), drawn.token) != request_.endIds.end()) {
    event.finish = Finish::stop;
    event.stopToken = drawn.token;
  } else {
    event.text = sequence.text.push(drawn.token);
    if (sequence.text.stopped() >= 0) {
      event.finish = Finish::stop;
      event.stopString = sequence.text.stopped();
    } else if (int(tokens.size()) >= request_.maxNewTokens) {
      event.finish = Finish::length;
    }
  }
  if (event.finish != Finish::none) {
    if (event.stopString < 0) event.text += sequence.text.finish();
    // What the rest of the text completes may itself be a stop string.
    if (sequence.text.stopped() >= 0 && event.stopString < 0) {
      event.finish = Finish::stop;
      event.stopToken = -1;
      event.stopString = sequence.text.stopped();
    }
    sequence.done = true;
    live_--;
  }
  events.push_back(std::move(event));
  return {};
}

void Generation::finish(Finish why, const std::shared_ptr<Failure>& failure, std::vector<Event>& events) {
  for (Sequence& sequence : sequences_) {
    if (sequence.done) continue;
    Event event;
    event.request = id_;
    event.sample = sequence.index;
    event.text = sequence.text.finish();
    event.finish = why;
    event.failure = failure;
    events.push_back(std::move(event));
    sequence.done = true;
    live_--;
  }
}

}  // namespace ewe

#include "engine/generation.h"

#include <algorithm>

namespace ewe {

Generation::Generation(int id, Request request, const TextTable& text, uint64_t space) : id_(id), request_(std::move(request)), live_(request_.n) {
  for (int i = 0; i < request_.n; i++) {
    Sample& s = samples_.emplace_back(this, i, TextStream(text, request_.stop, request_.keepSpecial));
    s.prompt = int(request_.tokens.size());
    s.most = s.prompt + request_.maxNewTokens;
    s.priority = request_.priority;
    s.order = int64_t(id) << 16 | i;
    s.space = space;
  }
  samples_[0].tokens = request_.tokens;
}

Sampling Generation::sampling(const Sample& sample) const {
  const int length = sample.begun ? int(sample.tokens.size()) : sample.prompt;
  Sampling s{};
  s.temperature = request_.temperature;
  s.topP = request_.topP;
  s.minP = request_.minP;
  s.repetitionPenalty = request_.repetitionPenalty;
  s.topK = request_.topK;
  s.top = std::max(request_.logprobs, 0);
  s.seed = request_.seed;
  s.sample = unsigned(sample.index);
  s.position = unsigned(length);
  s.historyLength = penalised() ? length : 0;
  return s;
}

void Generation::adjustments(const Sample& sample, std::vector<int>& ids, std::vector<float>& amounts) const {
  ids.clear();
  amounts.clear();
  auto bias = request_.logitBias.begin();
  auto seen = sample.generated.begin();
  while (bias != request_.logitBias.end() || seen != sample.generated.end()) {
    const bool biased = bias != request_.logitBias.end() && (seen == sample.generated.end() || bias->first <= seen->first);
    const bool repeated = seen != sample.generated.end() && (!biased || seen->first == bias->first);
    ids.push_back(biased ? bias->first : seen->first);
    float amount = biased ? bias->second : 0;
    if (repeated) amount -= request_.presencePenalty + request_.frequencyPenalty * float(seen->second);
    amounts.push_back(amount);
    if (biased) ++bias;
    if (repeated) ++seen;
  }
}

Status Generation::accept(Sample& sample, Drawn& drawn, std::vector<Event>& events) {
  if (!sample.begun && sample.index > 0) sample.tokens = request_.tokens;
  sample.begun = true;
  // The sampler gives every log-probability of a row with a NaN as NaN.
  if (drawn.logprob != drawn.logprob) {
    return Status::fail(Kind::numeric, "the logits at position %zu are not numbers: the weights are damaged, or overflow their dtype",
                        sample.tokens.size() - 1);
  }
  Event event;
  event.request = id_;
  event.sample = sample.index;
  event.token = drawn.token;
  if (request_.logprobs >= 0) {
    event.hasLogprob = true;
    event.logprob = drawn.logprob;
    event.topTokens = std::move(drawn.topTokens);
    event.topLogprobs = std::move(drawn.topLogprobs);
  }
  sample.tokens.push_back(drawn.token);
  if (counted()) sample.generated[drawn.token]++;
  if (std::find(request_.endIds.begin(), request_.endIds.end(), drawn.token) != request_.endIds.end()) {
    event.finish = Finish::stop;
    event.stopToken = drawn.token;
  } else {
    event.text = sample.text.push(drawn.token);
    if (sample.text.stopped() >= 0) {
      event.finish = Finish::stop;
      event.stopString = sample.text.stopped();
    } else if (int(sample.tokens.size()) >= sample.most) {
      event.finish = Finish::length;
    }
  }
  if (event.finish != Finish::none) end(sample, event);
  events.push_back(std::move(event));
  return {};
}

void Generation::end(Sample& sample, Event& event) {
  if (event.stopString < 0) event.text += sample.text.finish();
  // What the rest of the text completes may itself be a stop string.
  if (sample.text.stopped() >= 0 && event.stopString < 0 && event.finish != Finish::cancelled && event.finish != Finish::error) {
    event.finish = Finish::stop;
    event.stopToken = -1;
    event.stopString = sample.text.stopped();
  }
  sample.done = true;
  live_--;
}

void Generation::finish(Finish why, const std::shared_ptr<Failure>& failure, std::vector<Event>& events) {
  for (Sample& sample : samples_) {
    if (sample.done) continue;
    Event event;
    event.request = id_;
    event.sample = sample.index;
    event.finish = why;
    event.failure = failure;
    end(sample, event);
    events.push_back(std::move(event));
  }
}

}  // namespace ewe

// What the engine is asked for, and what it answers: plain data between napi and the loop.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/text.h"

namespace ewe {

struct Request {
  std::vector<int> tokens;  // the prompt, at least one
  int maxNewTokens;         // at least one; prompt and answer fit the context
  int n;                    // samples
  float temperature, topP, minP, repetitionPenalty;
  // As OpenAI defines them: taken off the logits of tokens that were generated, once, and once for each time.
  float presencePenalty, frequencyPenalty;
  std::vector<std::pair<int, float>> logitBias;  // ids, rising, and what is added to their logits
  int topK;
  uint64_t seed;
  std::vector<int> endIds;
  std::vector<std::string> stop;
  int logprobs;  // -1 none, else how many of the best beside the chosen one
  bool keepSpecial;
  int priority;      // more goes first
  int64_t deadline;  // nanoseconds of the steady clock when it is given up, or 0
};

// What sampling returns for a row.
struct Drawn {
  int token;
  float logprob;
  std::vector<int> topTokens;
  std::vector<float> topLogprobs;
};

// When a request came how far: nanoseconds of the steady clock, or 0 where it did not.
struct Times {
  int64_t asked = 0;     // it was handed to the engine
  int64_t started = 0;   // its first step began
  int64_t answered = 0;  // its first token was drawn
  int64_t ended = 0;
};

enum class Finish : int { none = 0, stop, length, cancelled, error };

// One token of one sample, or a rest of text without a token.
struct Event {
  int request, sample;
  int token = -1;
  std::string text;
  bool hasLogprob = false;
  float logprob = 0;
  std::vector<int> topTokens;
  std::vector<float> topLogprobs;
  Finish finish = Finish::none;
  int stopToken = -1;   // the end id that ended the sample
  int stopString = -1;  // index of the stop string that did
  std::shared_ptr<Failure> failure;
  // With the last event of a request:
  Times times;
  int reused = 0;  // tokens of its prompt that were in the cache when it began
};

// Log-probabilities of tokens[1 ..] given those before, each with the `top` best beside it.
struct Score {
  std::vector<int> tokens;
  int top;
  struct Result {
    std::vector<float> logprobs;     // [tokens - 1]
    std::vector<int> topTokens;      // [tokens - 1, top]
    std::vector<float> topLogprobs;  // [tokens - 1, top]
  };
  std::function<void(Status, Result)> done;
};

// All logits [tokens, vocab].
struct LogitsOf {
  std::vector<int> tokens;
  std::function<void(Status, std::vector<float>)> done;
};

}  // namespace ewe

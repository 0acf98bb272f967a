#include "engine/work.h"

#include <algorithm>

namespace ewe {

void Evaluation::finish(Status status) {
  if (score) return score->done(std::move(status), std::move(scored));
  logits->done(std::move(status), std::move(values));
}

static Status penalise(const Generation::Sample& s, Runner& runner, int at) {
  if (!s.generation->penalised() || s.slot < 0) return {};
  return runner.appendHistory(s.slot, at, s.tokens.data() + at, int(s.tokens.size()) - at);
}

// How a sample draws, with what its slot holds on the device; `slot` is another's where it has none yet.
static Status samplingOf(const Generation::Sample& s, int slot, Runner& runner, Sampling& out) {
  out = s.generation->sampling(s);
  out.history = runner.history(slot);
  if (s.generation->request().logitBias.empty() && s.generated.empty()) return {};
  std::vector<int> ids;
  std::vector<float> amounts;
  s.generation->adjustments(s, ids, amounts);
  return runner.setAdjustments(slot, ids, amounts, out);
}

Status remember(const Generation::Sample& sample, Runner& runner) { return penalise(sample, runner, int(sample.tokens.size()) - 1); }

// Rows [firstRow, firstRow + count) of the last run are the evaluation's tokens from `first` on.
static Status evaluate(Evaluation& e, int firstRow, int first, int count, Runner& runner) {
  const int length = int(e.tokens.size()), most = logitRows(runner.options());
  const int end = std::min(first + count, e.score ? length - 1 : length);  // of the last token there is nothing to score
  if (e.score) {
    e.scored.logprobs.resize(size_t(length - 1));
    e.scored.topTokens.resize(size_t(length - 1) * size_t(e.score->top));
    e.scored.topLogprobs.resize(size_t(length - 1) * size_t(e.score->top));
  } else {
    e.values.resize(size_t(length) * size_t(runner.spec().vocab));
  }
  for (int begin = first; begin < end; begin += most) {
    const int rows = std::min(most, end - begin);
    std::vector<int> wanted, targets;
    for (int i = 0; i < rows; i++) wanted.push_back(firstRow + begin - first + i);
    EWE_TRY(runner.head(wanted));
    if (!e.score) {
      EWE_TRY(runner.logits(rows, &e.values[size_t(begin) * size_t(runner.spec().vocab)]));
      continue;
    }
    for (int i = 0; i < rows; i++) targets.push_back(e.tokens[size_t(begin + i + 1)]);
    const size_t at = size_t(begin) * size_t(e.score->top);
    EWE_TRY(
        runner.logProbs(targets, e.score->top, &e.scored.logprobs[size_t(begin)], e.scored.topTokens.data() + at, e.scored.topLogprobs.data() + at));
  }
  return {};
}

// The first token of every sample, all from one row: the prompt's last.
static Status drawFirst(Generation::Sample& first, int row, Runner& runner, std::vector<Draw>& draws) {
  EWE_TRY(runner.head({row}));
  std::deque<Generation::Sample>& samples = first.generation->samples();
  const size_t most = size_t(logitRows(runner.options()));
  for (size_t begin = 0; begin < samples.size(); begin += most) {
    std::vector<Sampling> rows(std::min(samples.size() - begin, most));
    for (size_t i = 0; i < rows.size(); i++) EWE_TRY(samplingOf(samples[begin + i], first.slot, runner, rows[i]));
    std::vector<Drawn> drawn;
    EWE_TRY(runner.sample(rows, true, drawn));
    for (size_t i = 0; i < drawn.size(); i++) draws.push_back({&samples[begin + i], std::move(drawn[i])});
  }
  return {};
}

Status work(const StepPlan& plan, Runner& runner, const std::atomic<bool>& stop, std::vector<Draw>& draws) {
  for (const auto& [from, to] : plan.copies) EWE_TRY(runner.copyPage(from, to));
  for (const Sequence* s : plan.started) {
    if (!s->everyRow) EWE_TRY(penalise(static_cast<const Generation::Sample&>(*s), runner, 0));
  }
  std::vector<Piece> pieces;
  std::vector<Sampling> sampling;
  std::vector<int> rows;  // whose logits are drawn from, for `drawing`
  std::vector<Generation::Sample*> drawing;
  std::vector<std::pair<const Share*, int>> others;  // with their first rows
  int row = 0;
  for (const Share& share : plan.shares) {
    Sequence& s = *share.sequence;
    pieces.push_back({s.tokens.data() + s.computed, s.computed, share.count, &s.pages, share.prompt});
    if (s.everyRow) {
      others.push_back({&share, row});
    } else if (share.last) {
      auto& sample = static_cast<Generation::Sample&>(s);
      if (!sample.begun && sample.generation->samples().size() > 1) {
        others.push_back({&share, row});
      } else {
        EWE_TRY(samplingOf(sample, s.slot, runner, sampling.emplace_back()));
        rows.push_back(row + share.count - 1);
        drawing.push_back(&sample);
      }
    }
    row += share.count;
  }
  std::vector<Drawn> drawn;
  if (plan.decodes() && sampling.size() == pieces.size()) {
    EWE_TRY(runner.decode(pieces, sampling, stop, drawn));
  } else {
    EWE_TRY(runner.run(pieces, stop));
    if (!rows.empty()) {
      EWE_TRY(runner.head(rows));
      EWE_TRY(runner.sample(sampling, false, drawn));
    }
  }
  for (size_t i = 0; i < drawing.size(); i++) draws.push_back({drawing[i], std::move(drawn[i])});
  for (const auto& [share, first] : others) {
    if (share->sequence->everyRow) {
      EWE_TRY(evaluate(static_cast<Evaluation&>(*share->sequence), first, share->sequence->computed, share->count, runner));
    } else {
      EWE_TRY(drawFirst(static_cast<Generation::Sample&>(*share->sequence), first + share->count - 1, runner, draws));
    }
  }
  return {};
}

}  // namespace ewe

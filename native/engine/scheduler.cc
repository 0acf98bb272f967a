#include "engine/scheduler.h"

#include <algorithm>

namespace ewe {

void Scheduler::add(Sequence& s) { waiting_.insert(&s); }

void Scheduler::leave(Sequence& s) {
  pages_.release(s.pages);
  s.computed = 0;
  s.place = {};
  freeSlots_.push_back(s.slot);
  s.slot = -1;
  running_.erase(std::find(running_.begin(), running_.end(), &s));
}

void Scheduler::remove(Sequence& s) {
  if (s.slot < 0) {
    waiting_.erase(&s);
  } else {
    leave(s);
  }
}

void Scheduler::sendBack(Sequence& s) {
  auto& [shares, started, copies, rows, reused, preempted] = step_;
  shares.erase(std::remove_if(shares.begin(), shares.end(), [&](const Share& share) { return share.sequence == &s; }), shares.end());
  started.erase(std::remove(started.begin(), started.end(), &s), started.end());
  for (size_t i = copies.size(); i-- > 0;) {
    if (std::find(s.pages.begin(), s.pages.end(), copies[i].second) == s.pages.end()) continue;
    pages_.release(copies[i].first);
    copies.erase(copies.begin() + long(i));
  }
  preempted++;
  leave(s);
  waiting_.insert(&s);
}

const StepPlan& Scheduler::plan() {
  step_ = {};
  short_ = false;
  // One row is set aside for each that decodes: prompts never make them wait. Nor do they wait for ever.
  int room = limits_.rows;
  for (const Sequence* s : running_) room -= decodes(*s);
  room = std::max(room, 1);
  for (size_t i = 0; i < running_.size(); i++) {
    Sequence& s = *running_[i];
    if (!decodes(s)) {
      give(i, room);
    } else if (growOrSendBack(i, s.computed + 1)) {
      step_.shares.push_back({&s, 1, false, true});
    }
  }
  while (room > 0 && !waiting_.empty() && !short_) {
    Sequence& s = **waiting_.begin();
    if (int(running_.size()) < limits_.sequences && start(s)) {
      give(size_t(std::find(running_.begin(), running_.end(), &s) - running_.begin()), room);
    } else if (!running_.empty() && running_.back()->priority < s.priority) {
      sendBack(*running_.back());
    } else {
      break;
    }
  }
  for (const Share& share : step_.shares) step_.rows += share.count;
  std::stable_partition(step_.shares.begin(), step_.shares.end(), [](const Share& share) { return share.prompt; });
  return step_;
}

// ---- pages

bool Scheduler::grow(Sequence& s, int tokens) {
  const int wanted = pagesFor(tokens, pageSize_);
  if (wanted - int(s.pages.size()) > pages_.available()) return false;
  while (int(s.pages.size()) < wanted) s.pages.push_back(pages_.take());
  return true;
}

// Room for `tokens` of running_[at], from those after it; where there are none, it goes itself.
bool Scheduler::growOrSendBack(size_t at, int tokens) {
  while (!grow(*running_[at], tokens)) {
    short_ = true;
    const bool last = running_.size() == at + 1;
    sendBack(*running_.back());
    if (last) return false;
  }
  return true;
}

// ---- rows

// As many of the next tokens of running_[at], all of one class, as there is room for.
void Scheduler::give(size_t at, int& room) {
  Sequence& s = *running_[at];
  const bool prompt = s.computed < s.prompt;
  const int end = prompt ? s.prompt : int(s.tokens.size());
  int count = std::min(end - s.computed, room);
  if (count <= 0) return;
  const int pages = int(s.pages.size()) + pages_.available();
  if (int64_t(pages) * pageSize_ < s.computed + count) count = pages * pageSize_ - s.computed;
  if (count > 0) {
    (void)grow(s, s.computed + count);  // there are as many
  } else if (at + 1 == running_.size() && at > 0) {
    return;  // those before it will give pages back
  } else if (count = 1; !growOrSendBack(at, s.computed + 1)) {
    return;
  }
  room -= count;
  step_.shares.push_back({&s, count, prompt, s.computed + count == int(s.tokens.size())});
}

// ---- places

bool Scheduler::admits(const Sequence& s) const {
  if (running_.empty()) return true;
  if (limits_.reserve) {
    int64_t pages = pagesFor(s.most - 1, pageSize_);
    for (const Sequence* other : running_) pages += pagesFor(other->most - 1, pageSize_);
    return pages <= pages_.count();
  }
  // All its tokens now, and a page more for each that runs: else it would soon be sent back.
  return pagesFor(int(s.tokens.size()), pageSize_) - int(s.pages.size()) + int(running_.size()) <= pages_.available();
}

bool Scheduler::start(Sequence& s) {
  Pages::Match match;
  // The last token's row is needed for what is drawn from it, so at least this one is computed.
  if (!s.everyRow) match = pages_.match(s.space, s.tokens.data(), std::min(s.prompt, int(s.tokens.size()) - 1));
  s.pages = std::move(match.pages);
  if (!admits(s)) {
    if (match.part >= 0) pages_.release(match.part);
    pages_.release(s.pages);
    return false;
  }
  s.computed = match.tokens;
  s.place = match.place;
  if (match.part >= 0) {
    const int page = pages_.take();
    if (page >= 0) {
      s.pages.push_back(page);
      s.computed += match.partTokens;
      step_.copies.push_back({match.part, page});
    } else {
      pages_.release(match.part);
    }
  }
  step_.reused += s.computed;
  if (freeSlots_.empty()) freeSlots_.push_back(slots_++);
  s.slot = freeSlots_.back();
  freeSlots_.pop_back();
  waiting_.erase(&s);
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &s, Before()), &s);
  step_.started.push_back(&s);
  return true;
}

// ---- the end of a step

void Scheduler::done() {
  for (const Share& share : step_.shares) {
    Sequence& s = *share.sequence;
    s.computed += share.count;
    if (share.prompt) pages_.index(s.space, s.place, s.tokens.data(), std::min(s.computed, s.prompt), s.computed >= s.prompt, s.pages);
  }
  failed();
}

void Scheduler::failed() {
  for (const auto& [from, to] : step_.copies) pages_.release(from);
  step_ = {};
}

}  // namespace ewe

#include "engine/pages.h"

#include <algorithm>

namespace ewe {

struct Pages::Node {
  Node* parent;
  uint64_t space;
  int page, depth;
  int64_t released;
  Children children;
  Children::iterator self;  // in the parent's children; not of a root
};

// Leaves before what they hang on, which was released no earlier: who holds a page holds all before it.
bool Pages::Older::operator()(const Node* a, const Node* b) const {
  if (a->released != b->released) return a->released < b->released;
  if (a->depth != b->depth) return a->depth > b->depth;
  return a->page < b->page;
}

Pages::Pages(int count, int pageSize) : pageSize_(pageSize), holders_(size_t(count), 0), nodes_(size_t(count), nullptr) {
  // Low numbers are handed out first, so that a small job touches little memory.
  for (int page = count - 1; page >= 0; page--) free_.push_back(page);
}
Pages::~Pages() = default;

// ---- holders

int Pages::take() {
  if (free_.empty()) {
    if (unheld_.empty()) return -1;
    evict(*unheld_.begin());
  }
  const int page = free_.back();
  free_.pop_back();
  holders_[size_t(page)] = 1;
  return page;
}

void Pages::hold(int page) {
  if (holders_[size_t(page)]++ == 0) unheld_.erase(nodes_[size_t(page)]);
}
void Pages::share(int page) { hold(page); }

void Pages::letGo(int page) {
  if (--holders_[size_t(page)] > 0) return;
  Node* node = nodes_[size_t(page)];
  if (!node) return free_.push_back(page);
  node->released = clock_;
  unheld_.insert(node);
}
void Pages::release(int page) {
  clock_++;
  letGo(page);
}
void Pages::release(std::vector<int>& pages) {
  clock_++;
  for (int page : pages) letGo(page);
  pages.clear();
}

void Pages::evict(Node* node) {
  unheld_.erase(node);
  nodes_[size_t(node->page)] = nullptr;
  free_.push_back(node->page);
  Node* parent = node->parent;
  parent->children.erase(node->self);
  if (!parent->parent && parent->children.empty()) roots_.erase(parent->space);
}

// ---- the index

// In their order, the child with the longest common beginning is the first one not below `wanted`, or the one before it.
int Pages::commonWith(const Children& children, const std::vector<int>& wanted, Children::const_iterator* best) {
  auto common = [&](const std::vector<int>& tokens) {
    const size_t most = std::min(tokens.size(), wanted.size());
    return int(std::mismatch(tokens.begin(), tokens.begin() + long(most), wanted.begin()).first - tokens.begin());
  };
  int length = 0;
  const auto next = children.lower_bound(wanted);
  if (next != children.end()) {
    length = common(next->first);
    *best = next;
  }
  if (next != children.begin()) {
    const auto before = std::prev(next);
    const int other = common(before->first);
    if (other > length) {
      length = other;
      *best = before;
    }
  }
  return length;
}

Pages::Match Pages::match(uint64_t space, const int* tokens, int count) {
  Match m;
  const auto root = roots_.find(space);
  if (root == roots_.end()) return m;
  Node* node = root->second.get();
  while (m.tokens < count) {
    const std::vector<int> wanted(tokens + m.tokens, tokens + std::min(count, m.tokens + pageSize_));
    Children::const_iterator best;
    const int length = commonWith(node->children, wanted, &best);
    if (length == 0) break;
    hold(best->second->page);
    if (length < pageSize_) {
      m.part = best->second->page;
      m.partTokens = length;
      break;
    }
    node = best->second.get();
    m.tokens += pageSize_;
    m.pages.push_back(node->page);
    m.place = {node, m.place.pages + 1};
  }
  return m;
}

void Pages::index(uint64_t space, Place& place, const int* tokens, int count, bool end, std::vector<int>& pages) {
  if (count / pageSize_ <= place.pages && !(end && count % pageSize_ > 0)) return;
  Node* node = place.node;
  if (!node) {
    std::unique_ptr<Node>& root = roots_[space];
    if (!root) root.reset(new Node{nullptr, space, -1, 0, 0, {}, {}});
    node = root.get();
  }
  for (int first = place.pages * pageSize_; first < count; first += pageSize_) {
    const int length = std::min(pageSize_, count - first);
    if (length < pageSize_ && !end) break;
    std::vector<int> key(tokens + first, tokens + first + length);
    int& page = pages[size_t(place.pages)];
    Children::const_iterator best;
    Node* known = commonWith(node->children, key, &best) == length ? best->second.get() : nullptr;
    if (known && length < pageSize_) break;  // a page that begins so is there
    if (known && known->page != page) {
      hold(known->page);
      release(page);
      page = known->page;
    } else if (!known) {
      const auto at = node->children.emplace(std::move(key), new Node{node, space, page, node->depth + 1, 0, {}, {}}).first;
      known = at->second.get();
      known->self = at;
      nodes_[size_t(page)] = known;
    }
    if (length < pageSize_) break;
    node = known;
    place = {node, place.pages + 1};
  }
}

}  // namespace ewe

// The pages of the cache: who holds which, and which prompts they hold. A page whose tokens are those of a prompt stays when nobody holds it, until
// its place is wanted, so that the next prompt with the same beginning need not compute it again. Knows nothing of devices.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

namespace ewe {

class Pages {
 public:
  // A page of the index. Its tokens follow those of its parent; only at the end of a prompt they are fewer than a page has room for.
  struct Node;
  // How far the pages of a sequence are in the index. Valid while the sequence holds its pages.
  struct Place {
    Node* node = nullptr;
    int pages = 0;
  };
  struct Match {
    int tokens = 0;          // that whole pages hold
    std::vector<int> pages;  // these, held once more
    Place place;
    int part = -1;  // a page that goes on with partTokens more, held once more: to be copied and released
    int partTokens = 0;
  };

  Pages(int count, int pageSize);
  ~Pages();
  int count() const { return int(holders_.size()); }
  int used() const { return count() - available(); }  // that somebody holds
  int cached() const { return int(unheld_.size()); }  // that only the index keeps
  int available() const { return int(free_.size()) + int(unheld_.size()); }

  // A page with one holder, or -1 when all are held. Of those that only the index keeps, the longest unused goes first.
  int take();
  void share(int page);
  void release(int page);
  // All pages of a sequence.
  void release(std::vector<int>& pages);

  // The longest beginning of tokens[0 .. count) that the index has. Spaces share nothing.
  Match match(uint64_t space, const int* tokens, int count);
  // Whole pages of tokens[0 .. count), from `place` on, and with `end` the part of a page that is left, become known. pages[i] holds tokens from
  // i * pageSize on; where the index has the same already, that page takes its place.
  void index(uint64_t space, Place& place, const int* tokens, int count, bool end, std::vector<int>& pages);

 private:
  using Children = std::map<std::vector<int>, std::unique_ptr<Node>>;
  struct Older {
    bool operator()(const Node* a, const Node* b) const;
  };
  static int commonWith(const Children& children, const std::vector<int>& wanted, Children::const_iterator* best);
  void hold(int page);
  void letGo(int page);
  void evict(Node* node);

  const int pageSize_;
  std::vector<int> holders_, free_;
  std::vector<Node*> nodes_;  // of each page, or null
  std::map<uint64_t, std::unique_ptr<Node>> roots_;
  std::set<Node*, Older> unheld_;
  int64_t clock_ = 0;
};

}  // namespace ewe

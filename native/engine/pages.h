// Which pages of the cache are free, and how many hold on to each. Knows nothing of devices.
#pragma once
#include <vector>

namespace ewe {

class Pages {
 public:
  explicit Pages(int count);
  int count() const { return int(holders_.size()); }
  int used() const { return count() - int(free_.size()); }

  // A page with one holder, or -1 when none is free.
  int take();
  void share(int page) { holders_[page]++; }
  void release(int page);

 private:
  std::vector<int> holders_, free_;
};

}  // namespace ewe

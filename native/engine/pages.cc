#include "engine/pages.h"

namespace ewe {

Pages::Pages(int count) : holders_(count, 0) {
  // Low numbers are handed out first, so that a small job touches little memory.
  for (int page = count - 1; page >= 0; page--) free_.push_back(page);
}

int Pages::take() {
  if (free_.empty()) return -1;
  const int page = free_.back();
  free_.pop_back();
  holders_[page] = 1;
  return page;
}

void Pages::release(int page) {
  if (--holders_[page] == 0) free_.push_back(page);
}

}  // namespace ewe

// Pages against a plain model of them: any order of taking, sharing and releasing.
#include "engine/pages.h"

#include <set>

#include "cases.h"

namespace ewe::test {

static void anyOrder(Run& run) {
  Random random(11);
  for (int round = 0; round < 50; round++) {
    const int count = 1 + random.below(40);
    Pages pages(count, 16);
    std::vector<int> holders(size_t(count), 0);
    std::vector<int> held;  // one entry per holder
    int wrong = 0;
    for (int step = 0; step < 2000; step++) {
      const int used = int(std::set<int>(held.begin(), held.end()).size());
      if (pages.used() != used || pages.count() != count) wrong++;
      const int what = random.below(5);
      if (what < 2) {
        const int page = pages.take();
        if (used == count) {
          if (page != -1) wrong++;
        } else if (page < 0 || page >= count || holders[size_t(page)] != 0) {
          wrong++;
          break;
        } else {
          holders[size_t(page)] = 1;
          held.push_back(page);
        }
      } else if (!held.empty()) {
        const size_t at = size_t(random.below(int(held.size())));
        const int page = held[at];
        if (what == 2) {
          pages.share(page);
          holders[size_t(page)]++;
          held.push_back(page);
        } else {
          pages.release(page);
          holders[size_t(page)]--;
          held.erase(held.begin() + long(at));
        }
      }
    }
    for (int page : held) pages.release(page);
    run.expect(wrong == 0, std::to_string(wrong) + " answers differ from the model with " + std::to_string(count) + " pages");
    run.expect(pages.used() == 0, "all pages are free again");
    std::set<int> all;
    for (int i = 0; i < count; i++) all.insert(pages.take());
    run.expect(int(all.size()) == count && *all.begin() == 0 && *all.rbegin() == count - 1 && pages.take() == -1,
               "every page can be taken once more");
  }
}

static void lowFirst(Run& run) {
  Pages pages(5, 16);
  for (int i = 0; i < 3; i++) run.expect(pages.take() == i, "low numbers come first, so that a small job touches little memory");
}

static Suite suite([](Cases& cases) {
  cases.once("pages/any order of take, share and release", anyOrder);
  cases.once("pages/low numbers first", lowFirst);
});

}  // namespace ewe::test

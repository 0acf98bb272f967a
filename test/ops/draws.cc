// ewe-cases --draws N: N random rows, each drawn on a device, on the CPU device and by the definition (sample.h). All must agree: the token and, in
// every bit, its log-probability and the list of the best. Seeds, samples and positions differ from row to row, and so do all settings.
#include "sample.h"

namespace ewe::test {

using namespace draws;

// Mostly sizes around the borders of vectors, warps and blocks; one batch in fifty has a real vocabulary.
static size_t randomVocab(Random& random) {
  const int dice = random.below(100);
  if (dice < 2) return dice ? kLargestVocab : 50280;
  return size_t(1 + random.below(dice < 12 ? 6000 : 600));
}

void drawRows(Run& run, Ops& cpu, long count, unsigned seed) {
  Run other(cpu, false);
  reserve(run);
  reserve(other);
  Random random(seed);
  for (long done = 0; done < count;) {
    const size_t vocab = randomVocab(random);
    std::vector<Row> rows;
    std::vector<Reference> references;
    for (long most = std::min(count - done, vocab > 10000 ? 5L : 100L); long(rows.size()) < most;) {
      rows.push_back(randomRow(vocab, unsigned(random.next())));
      references.push_back(reference(rows.back()));
    }
    const Out here = sample(run, rows, kTop), there = sample(other, rows, kTop);
    compare(run, rows, references, here);
    for (size_t i = 0; i < rows.size(); i++) {
      const size_t first = i * kTop;
      bool same = here.token[i] == there.token[i] && sameBits(here.logprob[i], there.logprob[i]);
      for (size_t j = first; j < first + kTop; j++) {
        same = same && here.topToken[j] == there.topToken[j] && (here.topToken[j] < 0 || sameBits(here.topLogprob[j], there.topLogprob[j]));
      }
      EXPECT(same, "%zu ids, row %ld: id %d: %.9g, on the CPU %d: %.9g", vocab, done + long(i), here.token[i], double(here.logprob[i]),
             there.token[i], double(there.logprob[i]));
    }
    done += long(rows.size());
  }
}

}  // namespace ewe::test

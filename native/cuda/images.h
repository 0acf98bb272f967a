// Kernels as data: the pack that scripts/kernels.mjs makes (scripts/kernel-pack.mjs has its format), and which of its images are for a card.
#pragma once
#include <vector>

#include "base/mapping.h"
#include "cuda/driver.h"

namespace ewe::cuda {

class Images {
 public:
  // The images of one architecture, one per source file. They point into the pack and live as long as it.
  Status choose(int computeCapability, std::vector<Image>& out) const;
  // The path that these are compiled for (kernels/plan.h): what CardLimits::path must be for their plans. 0 when choose() refuses the card.
  int path(int computeCapability) const;
  // The names of their kernels.
  std::vector<const char*> kernels(int computeCapability) const;

 private:
  friend Status openImages(const char* path, Images& out);

  enum class Form : unsigned { cubin = 1, ptx = 2 };
  struct Entry {
    const char* stem;
    int architecture, path;  // 80 for sm_80
    Form form;
    std::vector<const char*> kernels;
    const unsigned char* data;
    size_t bytes;
  };
  // Code made for this card, else code that its driver translates; null when there is neither.
  const Entry* best(int computeCapability) const;

  Status read(const unsigned char* data, size_t size);
  Status readEntry(const unsigned char* data, size_t size, size_t index);
  Status checkWhole() const;

  Mapping pack_;
  std::vector<Entry> entries_;
};

// Checks all of a pack but the code in it, which is the driver's to check. Kind::device, with what to do, for a pack that is missing, damaged, or
// made from other sources than this addon.
Status openImages(const char* path, Images& out);

// SHA-256 of the kernels' sources that this addon was built beside: 32 bytes.
const unsigned char* kernelsHash();

}  // namespace ewe::cuda

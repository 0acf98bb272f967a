// The pack of kernels: what it answers for each card, and that nothing of it is believed before it is checked. The packs are written here, byte by
// byte as scripts/kernel-pack.mjs says; scripts/kernel-gates.mjs has the same reader open the real one.
#include "cuda/images.h"

#include <cstring>

#include "../model/files.h"
#include "cases.h"

namespace ewe::test {

using Bytes = std::vector<unsigned char>;

namespace {

struct Made {
  std::string stem;
  uint32_t architecture, path, form;  // 1 cubin, 2 PTX
  std::vector<std::string> kernels;
  Bytes data;
};

constexpr size_t kHeader = 64, kEntry = 80;
enum Field : size_t { kArchitecture = 32, kPath = 36, kForm = 40, kKernels = 44, kNames = 48, kNameBytes = 56, kData = 64, kDataBytes = 72 };

template <class T>
void put(Bytes& pack, size_t at, T value) {
  std::memcpy(pack.data() + at, &value, sizeof value);
}
template <class T>
T get(const Bytes& pack, size_t at) {
  T value;
  std::memcpy(&value, pack.data() + at, sizeof value);
  return value;
}
size_t fieldOf(size_t entry, Field field) { return kHeader + kEntry * entry + field; }

Bytes elf(unsigned char mark) {
  Bytes data(200, mark);
  std::memcpy(data.data(), "\177ELF", 4);
  return data;
}

Bytes ptx() {
  const char text[] = ".version 8.0";
  return Bytes(text, text + sizeof text);  // with its zero
}

// Two files for V100, T4, A100 and A10, and PTX for what is newer than 9.0.
std::vector<Made> example() {
  std::vector<Made> all;
  for (uint32_t architecture : {70u, 75u, 80u, 86u}) {
    const uint32_t path = architecture >= 80 ? 800 : architecture * 10;
    all.push_back({"norm", architecture, path, 1, {"norm_f16", "norm_f32"}, elf((unsigned char)architecture)});
    all.push_back({"linear", architecture, path, 1, {"linear_f16"}, elf((unsigned char)(architecture + 1))});
  }
  all.push_back({"norm", 90, 900, 2, {"norm_f16", "norm_f32"}, ptx()});
  all.push_back({"linear", 90, 900, 2, {"linear_f16"}, ptx()});
  return all;
}

Bytes packOf(const std::vector<Made>& images) {
  Bytes pack(kHeader + kEntry * images.size());
  for (size_t i = 0; i < images.size(); i++) {
    const Made& image = images[i];
    std::string names;
    for (const auto& kernel : image.kernels) names += kernel + '\0';
    put(pack, fieldOf(i, kArchitecture), image.architecture);
    put(pack, fieldOf(i, kPath), image.path);
    put(pack, fieldOf(i, kForm), image.form);
    put(pack, fieldOf(i, kKernels), uint32_t(image.kernels.size()));
    put(pack, fieldOf(i, kNames), uint64_t(pack.size()));
    put(pack, fieldOf(i, kNameBytes), uint64_t(names.size()));
    std::memcpy(pack.data() + kHeader + kEntry * i, image.stem.data(), image.stem.size());
    pack.insert(pack.end(), names.begin(), names.end());
    pack.resize((pack.size() + 63) / 64 * 64);
    put(pack, fieldOf(i, kData), uint64_t(pack.size()));
    put(pack, fieldOf(i, kDataBytes), uint64_t(image.data.size()));
    pack.insert(pack.end(), image.data.begin(), image.data.end());
  }
  std::memcpy(pack.data(), "ewe kern", 8);
  put(pack, 8, uint32_t(1));
  put(pack, 12, uint32_t(images.size()));
  std::memcpy(pack.data() + 16, cuda::kernelsHash(), 32);
  put(pack, 48, uint64_t(pack.size()));
  return pack;
}

struct Opened {
  TempFile file;
  cuda::Images images;
  std::string refusal;  // empty: opened

  explicit Opened(const Bytes& pack) {
    if (!pack.empty()) file.append(pack.data(), pack.size());
    const Status status = cuda::openImages(file.path().c_str(), images);
    if (!status.ok()) refusal = status.failure().kind == Kind::device ? status.failure().message : "not Kind::device";
  }
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void refuses(Run& run, const std::string& what, const Bytes& pack, const std::string& part) {
  const Opened opened(pack);
  run.expect(contains(opened.refusal, part) && contains(opened.refusal, opened.file.path()),
             what + ": expected \"" + part + "\" and the path, got \"" + opened.refusal + "\"");
}

}  // namespace

static void chooses(Run& run) {
  Opened opened(packOf(example()));
  run.expect(opened.refusal.empty(), "a sound pack is opened: " + opened.refusal);
  const struct {
    int card, architecture, path;
  } expected[] = {{70, 70, 700}, {72, 70, 700}, {75, 75, 750},  {80, 80, 800}, {86, 86, 800},
                  {89, 86, 800}, {90, 90, 900}, {103, 90, 900}, {120, 90, 900}};
  for (const auto& e : expected) {
    std::vector<cuda::Image> images;
    run.check(opened.images.choose(e.card, images));
    const std::string card = "card " + std::to_string(e.card);
    run.expect(images.size() == 2 && std::string(images[0].stem) == "norm" && std::string(images[1].stem) == "linear", card + " gets both files");
    const Bytes want = e.architecture == 90 ? ptx() : elf((unsigned char)e.architecture);
    run.expect(images[0].bytes == want.size() && std::memcmp(images[0].data, want.data(), want.size()) == 0, card + " gets its code");
    run.expect(opened.images.path(e.card) == e.path, card + " has path " + std::to_string(opened.images.path(e.card)));
    std::string names;
    for (const char* kernel : opened.images.kernels(e.card)) names += std::string(kernel) + " ";
    run.expect(names == "norm_f16 norm_f32 linear_f16 ", card + " has the kernels " + names);
  }
}

// A card that nothing is for gets a refusal that says what there is.
static void unknownCards(Run& run) {
  std::vector<Made> cubins = example();
  cubins.resize(8);
  Opened all(packOf(example())), old(packOf(cubins));
  const std::string have = "has them for 7.0, 7.5, 8.0, 8.6";
  const struct {
    cuda::Images& images;
    int card;
    std::string name, have;
  } cases[] = {{all.images, 61, "6.1", have + " and all from 9.0 on;"}, {old.images, 90, "9.0", have + ";"}, {old.images, 120, "12.0", have + ";"}};
  for (const auto& c : cases) {
    std::vector<cuda::Image> images;
    const Status status = c.images.choose(c.card, images);
    run.expect(!status.ok() && status.failure().kind == Kind::device, "a card of " + c.name + " is refused");
    const std::string message = status.ok() ? "" : status.failure().message;
    run.expect(contains(message, "compute capability " + c.name + ":") && contains(message, c.have), message);
    run.expect(c.images.path(c.card) == 0 && c.images.kernels(c.card).empty(), "no kernels for a card of " + c.name);
  }
}

static void stale(Run& run) {
  Bytes pack = packOf(example());
  for (size_t at : {16, 47}) {
    Bytes other = pack;
    other[at] ^= 1;
    refuses(run, "another hash", other, "made from other sources");
  }
  pack[16] ^= 1;
  refuses(run, "a stale pack", pack, "node scripts/build.mjs --addon --kernels");
  pack = packOf(example());
  put(pack, 8, uint32_t(2));
  refuses(run, "a later format", pack, "is of format 2, this addon reads format 1");
}

static void truncated(Run& run) {
  const Bytes pack = packOf(example());
  for (size_t length = 0; length < pack.size(); length++) {
    const Opened opened(Bytes(pack.begin(), pack.begin() + long(length)));
    const std::string expected =
        length < kHeader ? "is no pack of kernels" : "it has " + std::to_string(length) + " of " + std::to_string(pack.size());
    if (!contains(opened.refusal, expected)) run.expect(false, "of " + std::to_string(length) + " bytes: \"" + opened.refusal + "\"");
    // The same with a header that says so: then the parts are missing.
    if (length < kHeader) continue;
    Bytes shorter(pack.begin(), pack.begin() + long(length));
    put(shorter, 48, uint64_t(length));
    const Opened whole(shorter);
    if (!contains(whole.refusal, "is damaged")) run.expect(false, "saying " + std::to_string(length) + " bytes: \"" + whole.refusal + "\"");
  }
  run.expect(pack.size() > 1000, "the pack has parts to cut");
  Bytes longer = pack;
  longer.push_back(0);
  refuses(run, "a byte too many", longer, "of " + std::to_string(pack.size()) + " bytes");
  const std::string gone = TempFile().path();
  cuda::Images images;
  const Status status = cuda::openImages(gone.c_str(), images);
  run.expect(
      !status.ok() && contains(status.failure().message, gone) && contains(status.failure().message, "node scripts/build.mjs --addon --kernels"),
      "a missing pack");
}

static void damaged(Run& run) {
  const Bytes pack = packOf(example());
  auto with = [&](const std::string& what, size_t at, auto value, const std::string& part) {
    Bytes bad = pack;
    put(bad, at, value);
    refuses(run, what, bad, part);
  };
  with("another magic", 0, 'E', "is no pack of kernels");
  with("no entries", 12, uint32_t(0), "0 entries");
  with("too many entries", 12, uint32_t(5000), "5000 entries");
  with("more entries than bytes", 12, uint32_t(4000), "a table of 4000 entries");
  with("architecture", fieldOf(0, kArchitecture), uint32_t(7), "for architecture 7");
  with("path", fieldOf(0, kPath), uint32_t(860), "for path 860");
  with("form", fieldOf(0, kForm), uint32_t(3), "of kind 3");
  with("no kernels", fieldOf(0, kKernels), uint32_t(0), "has 0 kernels");
  with("a kernel too many", fieldOf(0, kKernels), uint32_t(3), "name 2 of the kernels");
  with("a kernel too few", fieldOf(0, kKernels), uint32_t(1), "names more than 1");
  with("a stem of nothing", fieldOf(0, Field(0)), char(0), "has no name");
  with("a stem with a slash", fieldOf(0, Field(1)), '/', "has no name");
  Bytes endless = pack;
  std::memset(endless.data() + kHeader, 'a', 32);
  refuses(run, "a stem without end", endless, "has no name");
  for (Field field : {kNames, kNameBytes, kData, kDataBytes})
    for (uint64_t value : {uint64_t(pack.size()), ~uint64_t(0), ~uint64_t(0) - 63, uint64_t(1) << 63})
      with("field " + std::to_string(field), fieldOf(3, field), value, "lies beyond the file");
  with("misaligned code", fieldOf(0, kData), get<uint64_t>(pack, fieldOf(0, kData)) + 8, "lies at byte");
  with("code of nothing", fieldOf(0, kDataBytes), uint64_t(0), "holds no cubin");
  with("PTX without its end", fieldOf(8, kDataBytes), uint64_t(5), "holds no PTX");
  with("a cubin that is none", size_t(get<uint64_t>(pack, fieldOf(0, kData))), 'x', "holds no cubin");
  const size_t name = size_t(get<uint64_t>(pack, fieldOf(0, kNames)));
  with("a name with a blank", name, ' ', "name 0 of the kernels");
  with("an empty name", name, char(0), "name 0 of the kernels");
  with("names that run on", name + get<uint64_t>(pack, fieldOf(0, kNameBytes)) - 1, 'x', "name 1 of the kernels");
  Bytes twice = pack;
  put(twice, fieldOf(2, kArchitecture), uint32_t(70));
  put(twice, fieldOf(2, kPath), uint32_t(700));
  refuses(run, "a file twice", twice, "norm for sm_70 twice");
  with("an architecture on two paths", fieldOf(1, kPath), uint32_t(750), "on the paths 700 and 750");
  with("a file that one architecture lacks", fieldOf(1, Field(0)), 'L', "files");
  std::vector<Made> same = example();
  same[1].kernels = {"norm_f16"};
  refuses(run, "a kernel twice", packOf(same), "kernel norm_f16 for sm_70 twice");
}

// Any two parts: the table, names, code.
static void overlaps(Run& run) {
  const Bytes pack = packOf(example());
  auto with = [&](const std::string& what, std::initializer_list<std::pair<size_t, uint64_t>> values) {
    Bytes bad = pack;
    for (const auto& [at, value] : values) put(bad, at, value);
    refuses(run, what, bad, "parts overlap");
  };
  const uint64_t code = get<uint64_t>(pack, fieldOf(1, kData)), names = get<uint64_t>(pack, fieldOf(1, kNames));
  with("code of another file", {{fieldOf(0, kData), code}});
  with("code of another card", {{fieldOf(3, kData), code}});
  with("code that runs into names", {{fieldOf(0, kDataBytes), 300}});
  with("names of another card", {{fieldOf(3, kNames), names}});
  with("names in the table", {{fieldOf(1, kNames), kHeader + kEntry}, {fieldOf(1, kNameBytes), sizeof "linear"}});
}

static Suite suite([](Cases& cases) {
  cases.once("images/each card gets its own code, path and names", chooses);
  cases.once("images/a card that nothing is for is told what there is", unknownCards);
  cases.once("images/a stale pack is refused", stale);
  cases.once("images/a pack cut off at any byte is refused", truncated);
  cases.once("images/damaged fields are refused", damaged);
  cases.once("images/overlapping parts are refused", overlaps);
});

}  // namespace ewe::test

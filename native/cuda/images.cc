#include "cuda/images.h"

#include <algorithm>
#include <cctype>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>

#ifndef EWE_KERNELS_HASH
#error "the build says what the kernels' sources are: -DEWE_KERNELS_HASH=\"...\", 64 hexadecimal digits (node scripts/sources.mjs kernels-hash)"
#endif

namespace ewe::cuda {

namespace {

constexpr char kMagic[] = "ewe kern";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 64, kEntryBytes = 80, kHashBytes = 32, kStemBytes = 32, kAlignment = 64;
constexpr uint32_t kMostEntries = 4096, kMostKernels = 4096;
constexpr size_t kMostName = 47;  // Launch::name of kernels/plan.h

// Of little-endian numbers, as every machine here has them.
template <class T>
T number(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

struct Range {
  uint64_t offset, bytes;
};

bool inside(const Range& range, size_t size) { return range.offset <= size && range.bytes <= size - range.offset; }

bool isName(const char* text, size_t length, size_t most) {
  return length > 0 && length <= most && std::all_of(text, text + length, [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

Status damaged(const char* format, ...) __attribute__((format(printf, 1, 2)));
Status damaged(const char* format, ...) {
  char text[300];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return Status::fail(Kind::device, "is damaged: %s", text);
}

std::string hex(const unsigned char* bytes, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; i++) {
    text += "0123456789abcdef"[bytes[i] >> 4];
    text += "0123456789abcdef"[bytes[i] & 15];
  }
  return text;
}

}  // namespace

const unsigned char* kernelsHash() {
  static_assert(sizeof EWE_KERNELS_HASH == 2 * kHashBytes + 1, "EWE_KERNELS_HASH has 64 digits");
  struct Bytes {
    unsigned char value[kHashBytes];
    Bytes() {
      for (size_t i = 0; i < kHashBytes; i++) value[i] = (unsigned char)std::stoi(std::string(EWE_KERNELS_HASH).substr(2 * i, 2), nullptr, 16);
    }
  };
  static const Bytes bytes;
  return bytes.value;
}

Status openImages(const char* path, Images& out) {
  constexpr char kAdvice[] =
      "In the folder of ewe, `bash scripts/cuda-toolchain.sh` installs nvcc and `node scripts/build.mjs --addon --kernels` builds both anew; or use "
      "device 'cpu'";
  Images images;
  Status status = Mapping::open(path, images.pack_);
  if (status.ok()) status = images.read(images.pack_.data(), images.pack_.size());
  if (!status.ok()) return Status::fail(Kind::device, "the kernels for CUDA devices: %s %s. %s", path, status.failure().message, kAdvice);
  out = std::move(images);
  return {};
}

Status Images::read(const unsigned char* data, size_t size) {
  if (size < kHeaderBytes || std::memcmp(data, kMagic, 8) != 0) return Status::fail(Kind::device, "is no pack of kernels");
  const uint32_t version = number<uint32_t>(data + 8), count = number<uint32_t>(data + 12);
  if (version != kVersion) return Status::fail(Kind::device, "is of format %u, this addon reads format %u", version, kVersion);
  const uint64_t whole = number<uint64_t>(data + 48);
  if (whole != size) return damaged("it has %zu of %llu bytes", size, (unsigned long long)whole);
  if (std::memcmp(data + 16, kernelsHash(), kHashBytes) != 0)
    return Status::fail(Kind::device, "is not of this addon: it was made from other sources (%s..., the addon's are %s...)",
                        hex(data + 16, 6).c_str(), hex(kernelsHash(), 6).c_str());
  if (count == 0 || count > kMostEntries) return damaged("%u entries, where 1 to %u may be", count, kMostEntries);
  if ((size - kHeaderBytes) / kEntryBytes < count) return damaged("a table of %u entries in %zu bytes", count, size);
  for (size_t i = 0; i < count; i++) EWE_TRY(readEntry(data, size, i));
  // No two parts may share bytes: what one says could not be checked apart from the other.
  std::vector<Range> parts = {{0, kHeaderBytes + kEntryBytes * uint64_t(count)}};
  for (size_t i = 0; i < count; i++) {
    const unsigned char* at = data + kHeaderBytes + kEntryBytes * i + 48;
    parts.push_back({number<uint64_t>(at), number<uint64_t>(at + 8)});
    parts.push_back({number<uint64_t>(at + 16), number<uint64_t>(at + 24)});
  }
  std::sort(parts.begin(), parts.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  for (size_t i = 1; i < parts.size(); i++) {
    const uint64_t end = parts[i - 1].offset + parts[i - 1].bytes;
    if (parts[i].offset < end) return damaged("parts overlap at byte %llu", (unsigned long long)parts[i].offset);
  }
  return checkWhole();
}

Status Images::readEntry(const unsigned char* data, size_t size, size_t index) {
  const unsigned char* at = data + kHeaderBytes + kEntryBytes * index;
  const char* stem = reinterpret_cast<const char*>(at);
  const size_t stemLength = strnlen(stem, kStemBytes);
  if (stemLength == kStemBytes || !isName(stem, stemLength, kStemBytes)) return damaged("entry %zu has no name", index);
  const uint32_t architecture = number<uint32_t>(at + 32), path = number<uint32_t>(at + 36), form = number<uint32_t>(at + 40);
  const uint32_t count = number<uint32_t>(at + 44);
  const Range names = {number<uint64_t>(at + 48), number<uint64_t>(at + 56)}, code = {number<uint64_t>(at + 64), number<uint64_t>(at + 72)};
  if (architecture < 70 || architecture > 999) return damaged("%s is for architecture %u", stem, architecture);
  if (path != 700 && path != 750 && path != 800 && path != 900) return damaged("%s is for path %u", stem, path);
  if (form != uint32_t(Form::cubin) && form != uint32_t(Form::ptx)) return damaged("%s is of kind %u", stem, form);
  if (count == 0 || count > kMostKernels) return damaged("%s has %u kernels", stem, count);
  if (!inside(names, size) || !inside(code, size)) return damaged("%s for sm_%u lies beyond the file's %zu bytes", stem, architecture, size);
  if (code.offset % kAlignment != 0) return damaged("%s for sm_%u lies at byte %llu", stem, architecture, (unsigned long long)code.offset);

  Entry entry = {stem, int(architecture), int(path), Form(form), {}, data + code.offset, size_t(code.bytes)};
  const char* name = reinterpret_cast<const char*>(data) + names.offset;
  const char* const end = name + names.bytes;
  for (uint32_t i = 0; i < count; i++) {
    const size_t length = strnlen(name, size_t(end - name));
    if (name + length >= end || !isName(name, length, kMostName)) return damaged("name %u of the kernels of %s for sm_%u", i, stem, architecture);
    entry.kernels.push_back(name);
    name += length + 1;
  }
  if (name != end) return damaged("%s for sm_%u names more than %u kernels", stem, architecture, count);
  if (entry.form == Form::cubin ? code.bytes < 64 || std::memcmp(entry.data, "\177ELF", 4) != 0 : code.bytes < 2 || entry.data[code.bytes - 1] != 0)
    return damaged("%s for sm_%u holds no %s", stem, architecture, entry.form == Form::cubin ? "cubin" : "PTX");
  entries_.push_back(std::move(entry));
  return {};
}

// Each architecture has the same files on one path, and no kernel twice.
Status Images::checkWhole() const {
  struct Group {
    int path;
    std::set<std::string> stems, kernels;
  };
  std::map<std::pair<Form, int>, Group> groups;
  std::set<std::string> stems;
  for (const Entry& entry : entries_) {
    Group& group = groups.insert({{entry.form, entry.architecture}, {entry.path, {}, {}}}).first->second;
    stems.insert(entry.stem);
    if (entry.path != group.path) return damaged("sm_%d on the paths %d and %d", entry.architecture, group.path, entry.path);
    if (!group.stems.insert(entry.stem).second) return damaged("%s for sm_%d twice", entry.stem, entry.architecture);
    for (const char* kernel : entry.kernels)
      if (!group.kernels.insert(kernel).second) return damaged("kernel %s for sm_%d twice", kernel, entry.architecture);
  }
  for (const auto& group : groups)
    if (group.second.stems != stems) return damaged("sm_%d has %zu of %zu files", group.first.second, group.second.stems.size(), stems.size());
  return {};
}

// A cubin runs on the cards of its major number from its minor number on; PTX on all from its own.
const Images::Entry* Images::best(int computeCapability) const {
  const Entry* best = nullptr;
  for (const Entry& entry : entries_) {
    const bool runs = entry.architecture <= computeCapability && (entry.form == Form::ptx || entry.architecture / 10 == computeCapability / 10);
    const auto rank = [](const Entry& e) { return std::make_pair(e.form == Form::cubin, e.architecture); };
    if (runs && (!best || rank(entry) > rank(*best))) best = &entry;
  }
  return best;
}

Status Images::choose(int computeCapability, std::vector<Image>& out) const {
  const Entry* chosen = best(computeCapability);
  if (!chosen) {
    std::set<int> cubins;
    int ptx = 0;
    for (const Entry& entry : entries_) {
      if (entry.form == Form::cubin) cubins.insert(entry.architecture);
      if (entry.form == Form::ptx) ptx = entry.architecture;
    }
    std::string have;
    for (int architecture : cubins) have += (have.empty() ? "" : ", ") + std::to_string(architecture / 10) + "." + std::to_string(architecture % 10);
    if (ptx) have += " and all from " + std::to_string(ptx / 10) + "." + std::to_string(ptx % 10) + " on";
    return Status::fail(Kind::device, "no kernels for a card of compute capability %d.%d: %s has them for %s; use device 'cpu'",
                        computeCapability / 10, computeCapability % 10, pack_.path().c_str(), have.c_str());
  }
  out.clear();
  for (const Entry& entry : entries_)
    if (entry.architecture == chosen->architecture && entry.form == chosen->form) out.push_back({entry.stem, entry.data, entry.bytes});
  return {};
}

int Images::path(int computeCapability) const {
  const Entry* chosen = best(computeCapability);
  return chosen ? chosen->path : 0;
}

std::vector<const char*> Images::kernels(int computeCapability) const {
  std::vector<const char*> names;
  const Entry* chosen = best(computeCapability);
  for (const Entry& entry : entries_)
    if (chosen && entry.architecture == chosen->architecture && entry.form == chosen->form)
      names.insert(names.end(), entry.kernels.begin(), entry.kernels.end());
  return names;
}

}  // namespace ewe::cuda

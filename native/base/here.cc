#include "base/here.h"

#include <dlfcn.h>

namespace ewe {

std::string ownFolder() {
  Dl_info self = {};
  if (!dladdr(reinterpret_cast<void*>(&ownFolder), &self) || !self.dli_fname) return ".";
  const std::string file = self.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

}  // namespace ewe

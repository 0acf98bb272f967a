// Where this addon or program lies: what ships beside it is found from there.
#pragma once
#include <string>

namespace ewe {

std::string ownFolder();

}  // namespace ewe

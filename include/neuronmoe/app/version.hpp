#pragma once
// Version of the program, as every file it writes carries it.
#include <string>

namespace nmoe::app {

/// "0.1.0", from CMake.
std::string version();

}  // namespace nmoe::app

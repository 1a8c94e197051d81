#pragma once
// Version of the program, as every file it writes carries it.
#include <string>

namespace nmoe::app {

/// Returns "0.1.0+4c4c3d5aa": the release and the git revision it was built from ("-dirty" with changes that
/// are not committed; the release alone when built outside git).
std::string version();

}  // namespace nmoe::app

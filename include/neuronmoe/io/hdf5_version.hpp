#pragma once
// Which HDF5 library is loaded, for --version and `check`.
#include <string>

namespace nmoe::io {

/// Returns its version: "1.10.8". Not collective.
std::string hdf5_version();

}  // namespace nmoe::io

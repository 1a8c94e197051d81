// The version of the HDF5 library.
#include "neuronmoe/io/hdf5_version.hpp"

#include <fmt/core.h>
#include <hdf5.h>

namespace nmoe::io {

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace nmoe::io

// The version that CMake wrote into nmoe_version.hpp.
#include "neuronmoe/app/version.hpp"

#include "nmoe_version.hpp"

namespace nmoe::app {

std::string version() {
  return NMOE_VERSION;
}

}  // namespace nmoe::app

#include "neuronmoe/app/version.hpp"

#include "nmoe_version.hpp"

namespace nmoe::app {

std::string version() {
  return NMOE_VERSION;
}

}  // namespace nmoe::app

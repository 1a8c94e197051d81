#include "neuronmoe/app/version.hpp"

namespace nmoe::app {

std::string version() {
  return NMOE_VERSION;
}

}  // namespace nmoe::app

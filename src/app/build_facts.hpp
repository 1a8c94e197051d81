#pragma once
// What the program was built from and with: --version, and what a report of a fault needs.
#include <string>

namespace nmoe::app {

/// Returns "neuronmoe VERSION" on the first line, then a line each for compiler, flags and libraries. Needs
/// no MPI; asks the driver for GPUs and opens NCCL. Not collective.
std::string version_text();

}  // namespace nmoe::app

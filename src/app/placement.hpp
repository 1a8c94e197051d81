#pragma once
// Which device and how many threads a rank gets, and who stands where. Part of run_guarded.
#include <string>

#include "neuronmoe/base/log.hpp"
#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/tensor/dtype.hpp"

namespace nmoe::app {

/// `auto` says what it took; `cuda` without a CUDA device, or on more than one rank, is an Error(config).
/// With `cuda` the device is chosen for this thread.
Device choose_device(const std::string& wanted, int num_ranks, const Logger& log);

/// Sets the OpenMP threads of this rank and warns if the node or the rank's cores have fewer cores.
/// Collective.
void choose_threads(comm::Communicator& world, int wanted, const Logger& log);

}  // namespace nmoe::app

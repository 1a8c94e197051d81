#pragma once
// Which device and how many threads a rank gets, and who stands where. Part of run_guarded.
#include <memory>

#include "launcher.hpp"
#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/base/log.hpp"

namespace nmoe::app {

/// Returns where all ranks compute. Without a wish that is a GPU each if the work computes and every rank can
/// have one to itself; else the CPU, and `log` says why. The GPU is the one the launcher left visible, else
/// that of the rank's number on its node; it is chosen for this thread. Collective.
/// @throws Error(config) if `cuda` is asked for and some rank has no GPU to itself (options.share_gpu: none
/// at all), or if nothing is asked for in a batch job that has GPUs and they cannot be used
Device choose_device(comm::Communicator& world, const GuardOptions& options, const Logger& log);

/// The world with a way for tensors on GPUs: options.gpu_transport, or NCCL if there is one and every rank
/// has a GPU to itself, else copies through host memory.   @throws Error(config) if the wish cannot be
/// honored Collective, after choose_device().
std::unique_ptr<comm::Communicator> make_gpu_world(std::unique_ptr<comm::Communicator> world,
                                                   const GuardOptions& options, const Logger& log);

/// Sets the OpenMP threads of this rank and warns if the node or the rank's cores have fewer cores.
/// Collective.
void choose_threads(comm::Communicator& world, int wanted, const Logger& log);

}  // namespace nmoe::app

#pragma once
// HDF5 files that nobody vouches for, opened by a process of their own first. Files of ours carry a checksum
// (io/file_seal.hpp) or stand in a manifest; for others the HDF5 library, which may crash or loop on damaged
// structure, is tried where that costs nothing. Used by score, inspect and every command that reads a file of
// ours from before the checksum.
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/comm/execution_context.hpp"

namespace nmoe::app {

/// First word of a command line `neuronmoe --trial-read FILE OBJECT...`, which no user writes.
inline constexpr std::string_view trial_option = "--trial-read";

/// The trial process: opens FILE and everything below the OBJECTs, reads no numbers, prints why not if it
/// cannot, and returns 0 or 65. MPI is not started.
int run_trial(const std::vector<std::string>& arguments);

/// Starts this program again to look at `objects` of a file ("/" is all of it). On rank 0; collective.
/// @throws Error(bad_data) with its reason, or saying that it crashed or did not end
void trial_read(comm::ExecutionContext& context, const std::string& path,
                const std::vector<std::string>& objects);

/// Compares HDF5 files of ours with their checksums, each byte read by one rank only. A file without one is
/// tried and warned of. Collective. @throws Error(bad_data) for a damaged file
void verify_h5_inputs(comm::ExecutionContext& context, const std::vector<std::string>& paths);

}  // namespace nmoe::app

#pragma once
// `neuronmoe allocate` without its command line: options in, experts.cfg out. Rank 0 calls it, inside
// comm::agree.
#include <string>
#include <vector>

#include "neuronmoe/analysis/allocation.hpp"

namespace nmoe::analysis {

/// Reads what the options name (neurons.h5, a counts CSV, or nothing for a list) and allocates. The reasons
/// begin with the input's name and hash. @param num_layers of the model for mode uniform without an input; 0
/// = unknown
/// @throws Error(config) for contradicting options, Error(bad_data) for the inputs
Allocation allocate_from_files(const AllocationConfig& config, int num_layers = 0);

/// Text of experts.cfg (METHOD 3.5): reasons as comments, then ADA_MOE_NUM_EXPERTS_LIST=.
std::string experts_cfg_text(const Allocation& allocation, const std::vector<std::string>& provenance);
/// Writes it atomically. @param provenance lines such as version and resolved options
void write_experts_cfg(const std::string& path, const Allocation& allocation,
                       const std::vector<std::string>& provenance);

}  // namespace nmoe::analysis

#pragma once
// `neuronmoe allocate` without its command line: options in, experts.cfg or a table of settings out. Rank 0
// calls it, inside comm::agree.
#include <optional>
#include <string>
#include <vector>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/model/config.hpp"

namespace nmoe::analysis {

/// Reads what the options name (neurons.h5, a counts CSV, or nothing for a list) and allocates. The reasons
/// begin with the input's name and hash; with allocation.explain they show the arithmetic of every layer, and
/// with a model what the allocation costs in parameters.
/// @param model for parameters, and for the number of layers of mode uniform without an input
/// @param existing experts per layer, base included, of the mixture that allocation.add_to names: every layer
/// keeps them and gets the new ones of the allocation on top; empty: the base alone
/// @throws Error(config) for contradicting options, Error(bad_data) for the inputs
Allocation allocate_from_files(const AllocationConfig& config,
                               const std::optional<model::ModelConfig>& model = std::nullopt,
                               const std::vector<int>& existing = {});

/// Returns the table of allocation.sweep as CSV: one row per setting with experts, layers with new experts,
/// new experts, new, total and active parameters (empty without a model) and the list. A setting that
/// allocates nothing has an empty list and says why in `note`.
/// @throws Error(config) for a malformed sweep, or thresholds and top-k without neurons.h5
std::string sweep_csv(const AllocationConfig& config, const std::optional<model::ModelConfig>& model);

/// Returns the text of experts.cfg (METHOD 3.5): reasons as comments, then ADA_MOE_NUM_EXPERTS_LIST=.
std::string experts_cfg_text(const Allocation& allocation, const std::vector<std::string>& provenance);
/// Writes it atomically. @param provenance lines such as version and resolved options
void write_experts_cfg(const std::string& path, const Allocation& allocation,
                       const std::vector<std::string>& provenance);

}  // namespace nmoe::analysis

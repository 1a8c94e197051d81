#pragma once
// How much of an allocation the order of neurons that tie at the cut decides (METHOD 1.7a). `allocate` says
// it whenever more neurons tie than are taken. Nothing here is collective.
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/analysis/layer_sizes.hpp"

namespace nmoe::analysis {

/// Experts over many draws of the neurons at the cut.
struct TieRange {
  std::vector<int> least, most;      ///< [L] of a layer
  int total_min = 0, total_max = 0;  ///< experts in all
  double total_median = 0.0;
};

/// Number of draws; their seeds are that of the file and those that follow it.
inline constexpr int num_tie_draws = 100;

/// Allocates once for each of num_tie_draws seeds, with the neurons at the cut drawn at random.
TieRange range_over_draws(const AllocationConfig& config, const NeuronStatistics& statistics,
                          const CountRule& rule);

/// Returns the lines that say how far the experts of every layer, and all of them, range over the draws, and
/// what a top_k that leaves out nobody of those that tie would give.
/// @param sizes what was allocated from   @pre sizes.top_k_of_all_tied > 0
std::vector<std::string> explain_ties(const AllocationConfig& config, const NeuronStatistics& statistics,
                                      const LayerSizes& sizes, const CountRule& rule);

}  // namespace nmoe::analysis

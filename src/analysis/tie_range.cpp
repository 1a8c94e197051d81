// Allocations over many draws of the neurons that tie at the cut.
#include "neuronmoe/analysis/tie_range.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace nmoe::analysis {

TieRange range_over_draws(const AllocationConfig& config, const NeuronStatistics& statistics,
                          const CountRule& rule) {
  TieRange range;
  std::vector<int> totals;
  for (int draw = 0; draw < num_tie_draws; ++draw) {
    Reselection again;
    again.ties = Ties::random;
    again.seed = static_cast<std::uint64_t>(statistics.provenance.seed) + static_cast<std::uint64_t>(draw);
    const Allocation one = allocate_by_count(sizes_from_neurons(config, statistics, again).total, rule);
    totals.push_back(one.total());
    if (draw == 0) range.least = range.most = one.num_experts;
    for (std::size_t l = 0; l < one.num_experts.size(); ++l) {
      range.least[l] = std::min(range.least[l], one.num_experts[l]);
      range.most[l] = std::max(range.most[l], one.num_experts[l]);
    }
  }
  std::sort(totals.begin(), totals.end());
  range.total_min = totals.front();
  range.total_max = totals.back();
  range.total_median = (totals[num_tie_draws / 2 - 1] + totals[num_tie_draws / 2]) / 2.0;
  return range;
}

std::vector<std::string> explain_ties(const AllocationConfig& config, const NeuronStatistics& statistics,
                                      const LayerSizes& sizes, const CountRule& rule) {
  const TieRange range = range_over_draws(config, statistics, rule);
  std::vector<std::string> by_layer;
  for (std::size_t l = 0; l < range.least.size(); ++l)
    by_layer.push_back(range.least[l] == range.most[l] ? fmt::format("{}", range.least[l])
                                                       : fmt::format("{}-{}", range.least[l], range.most[l]));
  const auto first_seed = statistics.provenance.seed;
  Reselection all;
  all.top_k = sizes.top_k_of_all_tied;
  const LayerSizes without = sizes_from_neurons(config, statistics, all);
  const Allocation allocation = allocate_by_count(without.total, rule);
  return {
      fmt::format("ties drawn at random with {} seeds ({} to {}) give {} to {} experts in all, median {}; "
                  "by layer, layer 0 first: {}",
                  num_tie_draws, first_seed, first_seed + num_tie_draws - 1, range.total_min, range.total_max,
                  range.total_median, fmt::join(by_layer, ",")),
      fmt::format("top_k = {} (analysis.top_k, or allocation.top_k with this file) takes all that tie and "
                  "gives {} experts: {}{}",
                  sizes.top_k_of_all_tied, allocation.total(), fmt::join(allocation.num_experts, ","),
                  without.top_k_of_all_tied > 0
                      ? fmt::format("; others tie at that cut, up to top_k = {}", without.top_k_of_all_tied)
                      : "")};
}

}  // namespace nmoe::analysis

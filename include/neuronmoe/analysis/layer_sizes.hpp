#pragma once
// S_l of METHOD 3.1 from a file: how many neurons each layer has, by language and together. `allocate` turns
// them into experts, explains them and sweeps over them.
#include <optional>
#include <string>
#include <vector>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/analysis/neuron_file.hpp"

namespace nmoe::analysis {

struct LayerSizes {
  std::vector<std::string> names;         ///< languages or columns
  std::vector<std::vector<double>> each;  ///< [names][L]
  std::vector<double> overlap;            ///< [L] counted twice in the sum of `each`
  std::vector<double> total;              ///< [L] S_l
  std::vector<std::string> how;           ///< where S comes from, as lines
  std::vector<std::string> warnings;      ///< what makes S doubtful, as lines
  /// The top_k by which no language leaves out a neuron that ties with one selected; 0 if none does.
  std::int64_t top_k_of_all_tied = 0;
};

/// Parses "25:3,3:1" as neurons that languages share in a layer. [L]
/// @throws Error(config) for anything else, a layer that is not there, or one named twice
std::vector<double> parse_overlap(std::string_view text, std::size_t num_layers);

/// Computes the sizes from the columns of a counts CSV, less allocation.overlap (mode union) or by mode
/// sum_mean.
LayerSizes sizes_from_counts(const AllocationConfig& config);

/// Selection rule in place of the one in the file; what is left open is that of the options or the file.
struct Reselection {
  std::optional<std::int64_t> top_k;
  std::optional<double> ap_min;
  std::optional<Ties> ties;
  std::optional<std::uint64_t> seed;
};
/// Computes the sizes from the selected neurons of neurons.h5, by mode union or sum_mean. Selects anew where
/// the rule is not that of the file.
LayerSizes sizes_from_neurons(const AllocationConfig& config, const NeuronStatistics& statistics,
                              const Reselection& again = {});

/// Returns the arithmetic of allocate_by_count, a line per layer: sizes by language, overlap, S, normalized
/// score, x, E, and how many neurons more or fewer would change E while minimum and maximum stay.
std::vector<std::string> explain_counts(const LayerSizes& sizes, const CountRule& rule,
                                        const Allocation& allocation);

}  // namespace nmoe::analysis

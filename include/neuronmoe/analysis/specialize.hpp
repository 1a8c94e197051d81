#pragma once
// How specialized the experts of an MoE became (METHOD 8): average precision of every expert's gate, up and
// down outputs, pooled per sample over the tokens routed to that expert. `neuronmoe specialize` calls it.
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/analysis/neuron_analysis.hpp"

namespace nmoe::analysis {

/// One expert of one layer, summed over its three projections.
struct ExpertSummary {
  int layer = 0, expert = 0;  ///< 0 = base, e >= 1 = exp_{e−1}
  std::int64_t total = 0;     ///< units: 2·intermediate + hidden
  std::vector<std::int64_t> high_ap,
      zero_samples;  ///< [G] units with AP >= ap_high; own sentences without a token
};

/// Everything in expert_neurons.h5. `neurons` uses the expert module table and carries no selection.
struct ExpertStatistics {
  NeuronStatistics neurons;
  std::vector<ExpertSummary> experts;
  std::vector<std::uint64_t> count_tokens;   ///< [expert, sample]
  std::vector<std::string> sample_language;  ///< [sample]
  double ap_high = 0.9;
  EmptyPolicy empty_policy = EmptyPolicy::zero;
};

/// Returns the result on rank 0, an empty one elsewhere. Dense layers appear with their MLP as base.
/// Collective over the world.
/// @throws Error(bad_data) for a NaN response, naming layer, expert and unit
ExpertStatistics analyse_experts(comm::ExecutionContext& context, const AnalysisConfig& config,
                                 const model::ModelConfig& model, const SampleSet& samples,
                                 const ObserveFunction& observe);

/// Writes expert_neurons.h5 (docs/formats.md): neurons.h5's layout plus /expert and /count_tokens. On rank 0,
/// within comm::agree. @throws Error(io|no_space)
void write_expert_file(const std::string& path, const ExpertStatistics& statistics);
/// Returns the table of METHOD 8 for one language: layer,expert,total,high_ap,ratio_percent.
std::string expert_csv(const ExpertStatistics& statistics, std::size_t language);

}  // namespace nmoe::analysis

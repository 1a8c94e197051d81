#pragma once
// The neurons that [intervention] names, as sets for a loaded model. Used by evaluate and generate.
#include <string>
#include <utility>
#include <vector>

#include "model_setup.hpp"
#include "neuronmoe/analysis/neuron_sets.hpp"
#include "neuronmoe/app/config.hpp"

namespace nmoe::app {

struct InterventionSets {
  std::vector<analysis::NeuronSet> sets;
  std::string neurons_sha256;  ///< of the file

  /// Returns each set as the passes of `decoder` take it.
  std::vector<model::Intervention> for_decoder(const model::Decoder& decoder) const;
};

/// Demands that what [intervention] says be complete; returns whether it asks for anything. Not collective.
/// @throws Error(config)
bool wants_intervention(const AppConfig& config);
/// Returns the options of [intervention], "section.key" and value, for the record of an output.
std::vector<std::pair<std::string, std::string>> intervention_options(const AppConfig& config);
/// Returns the sets of the neurons.h5 that [intervention] names, which rank 0 reads; `controls` random sets
/// per language, drawn with evaluation.seed. Collective. @throws Error(config) naming a language that is not
/// there; Error(bad_data) naming the file if it is damaged, of another model or lacks what replaces outputs
InterventionSets load_interventions(comm::ExecutionContext& context, const AppConfig& config,
                                    std::int64_t controls);

}  // namespace nmoe::app

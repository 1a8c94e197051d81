#pragma once
// The sense sentences of `analyze` and `specialize`, tokenized for a model, and the provenance of what comes
// out.
#include "model_setup.hpp"
#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/analysis/sense.hpp"

namespace nmoe::app {

struct SenseSetup {
  analysis::SampleSet samples;
  analysis::SampleSet documents;  ///< of analysis.similarity_text, or empty
  analysis::Provenance provenance;
};

/// Reads analysis.sense and analysis.similarity_text, tokenizes, and says how many sentences each language
/// keeps. Collective.
SenseSetup prepare_sense(comm::ExecutionContext& context, const AppConfig& config,
                         const model::ModelConfig& architecture);

}  // namespace nmoe::app

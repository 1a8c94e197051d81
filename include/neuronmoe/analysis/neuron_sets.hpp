#pragma once
// Sets of neurons whose outputs a model's forward replaces to see whether they matter (METHOD 1.9): those
// selected for a language, and random ones beside them. `evaluate` and `generate` use them. Nothing here is
// collective.
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/base/enum_names.hpp"
#include "neuronmoe/model/intervention.hpp"

namespace nmoe::analysis {

/// What the output of a neuron becomes: 0, or its median over sentences of other languages or of its own.
enum class Replacement { zero, off_p50, on_p50 };
constexpr auto enum_names(Replacement) {
  return std::to_array<EnumName<Replacement>>(
      {{Replacement::zero, "zero"}, {Replacement::off_p50, "off_p50"}, {Replacement::on_p50, "on_p50"}});
}

/// Which sets are made.
struct NeuronSetOptions {
  std::string languages;  ///< comma-separated; empty: all of the file, in its order
  Replacement replace = Replacement::zero;
  std::int64_t controls = 0;  ///< random sets per language
  std::uint64_t seed = 0;     ///< of their draws
};

struct NeuronSet {
  std::string language;
  std::int64_t control = 0;  ///< 0: the selected neurons; from 1 on: random ones, by number
  std::vector<std::uint64_t> uuids;
  std::vector<model::ReplacedNeuron> neurons;  ///< in the same order, ascending by uuid
};

/// Returns for each language its selected neurons, then its controls. A control has from every module as many
/// units as the selected set, drawn among those that no language of the file has selected; the draw is a
/// function of seed, language, number of the control and uuid. Medians are those for the language.
/// @throws Error(config) naming a language that is not there or stands twice; Error(bad_data) if the modules
/// are not those of `model`, a median is of no sentence or not finite, or too few units of a module are left
std::vector<NeuronSet> neuron_sets(const NeuronStatistics& statistics, const model::ModelConfig& model,
                                   const NeuronSetOptions& options);

}  // namespace nmoe::analysis

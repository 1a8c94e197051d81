// neurons.h5 read once and its sets of neurons given to every rank.
#include "intervention_setup.hpp"

#include <bit>
#include <nlohmann/json.hpp>

#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "trial_read.hpp"

namespace nmoe::app {
namespace {

InterventionSets read_sets(const AppConfig& config, const analysis::NeuronSetOptions& options) {
  const std::string& path = config.intervention.neurons;
  const analysis::NeuronStatistics statistics = analysis::read_neuron_file(path);
  const std::string& stored = statistics.provenance.model_sha256;
  const std::string found = model::model_directory_hash(config.run.model);
  NMOE_CHECK(stored == found, bad_data,
             "{}: its neurons are those of a model with hash {}, --model {} has {}; give the model that was "
             "analyzed, or analyze this one",
             path, stored, config.run.model, found);
  try {
    return {analysis::neuron_sets(statistics, model::load_directory_config(config.run.model), options),
            sha256_file(path)};
  } catch (const Error& error) {  // the sets do not know which file they are made from
    throw Error(error.code(), path + ": " + error.what());
  }
}

/// Sets as text, every number exact, and back.
std::string packed(const InterventionSets& all) {
  nlohmann::json sets = nlohmann::json::array();
  for (const analysis::NeuronSet& set : all.sets) {
    nlohmann::json neurons = nlohmann::json::array();
    for (const model::ReplacedNeuron& neuron : set.neurons)
      neurons.push_back({neuron.layer, static_cast<int>(neuron.projection), neuron.unit,
                         std::bit_cast<std::uint32_t>(neuron.value)});
    sets.push_back({set.language, set.control, set.uuids, neurons});
  }
  return nlohmann::json{all.neurons_sha256, sets}.dump();
}

InterventionSets unpacked(const std::string& text) {
  const nlohmann::json all = nlohmann::json::parse(text);
  InterventionSets result{{}, all[0].get<std::string>()};
  for (const nlohmann::json& set : all[1]) {
    analysis::NeuronSet& one = result.sets.emplace_back();
    set[0].get_to(one.language);
    set[1].get_to(one.control);
    set[2].get_to(one.uuids);
    for (const nlohmann::json& neuron : set[3])
      one.neurons.push_back({neuron[0].get<int>(), static_cast<model::Projection>(neuron[1].get<int>()),
                             neuron[2].get<std::int32_t>(),
                             std::bit_cast<float>(neuron[3].get<std::uint32_t>())});
  }
  return result;
}

}  // namespace

std::vector<model::Intervention> InterventionSets::for_decoder(const model::Decoder& decoder) const {
  std::vector<model::Intervention> interventions;
  for (const analysis::NeuronSet& set : sets)
    interventions.emplace_back(decoder.config(), decoder.dtype(), set.neurons, decoder.stream());
  return interventions;
}

bool wants_intervention(const AppConfig& config) {
  const InterventionConfig& options = config.intervention;
  NMOE_CHECK(!options.neurons.empty() || options.languages.empty(), config,
             "intervention.languages = {}, but nothing says which neurons: give --intervention.neurons "
             "neurons.h5, which analyze makes",
             options.languages);
  return !options.neurons.empty();
}

std::vector<std::pair<std::string, std::string>> intervention_options(const AppConfig& config) {
  auto options = recorded_options(config, "intervention");
  std::erase_if(options, [](const auto& option) { return !option.first.starts_with("intervention."); });
  return options;
}

InterventionSets load_interventions(comm::ExecutionContext& context, const AppConfig& config,
                                    std::int64_t controls) {
  const InterventionConfig& options = config.intervention;
  verify_h5_inputs(context, {options.neurons});
  InterventionSets result = unpacked(on_rank_zero(context, [&] {
    return packed(read_sets(config, {options.languages, options.replace, controls, config.evaluation.seed}));
  }));
  for (const analysis::NeuronSet& set : result.sets) {
    if (set.neurons.empty() && context.world.rank() == 0)
      context.log.warn("{}: no neuron is selected for {}; nothing is replaced", options.neurons,
                       set.language);
  }
  context.heartbeat.beat();
  return result;
}

}  // namespace nmoe::app

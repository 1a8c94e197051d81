// neuronmoe analyze: which neurons of a model answer to which language.
#include <filesystem>

#include "commands.hpp"
#include "neuronmoe/analysis/neuron_analysis.hpp"
#include "neuronmoe/analysis/response_file.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "output_claim.hpp"
#include "sense_setup.hpp"

namespace nmoe::app {
namespace {

/// Demands that the options of responses go together. @throws Error(config)
void check_response_options(const AppConfig& config) {
  const auto& options = config.analysis;
  NMOE_CHECK(!options.responses.empty() || options.response_modules.empty(), config,
             "analysis.response_modules = {} is set, but analysis.responses, the file they go to, is not",
             options.response_modules);
  const auto place = [](const std::string& path) {
    return std::filesystem::absolute(path).lexically_normal();
  };
  NMOE_CHECK(options.responses.empty() || place(options.responses) != place(config.run.output), config,
             "analysis.responses = {} is --output too; name another file", options.responses);
}

}  // namespace

int run_analyze(comm::ExecutionContext& context, const AppConfig& config) {
  const auto& options = config.analysis;
  check_response_options(config);
  const OutputClaim claim(context, OutputKind::file, options.responses, "--analysis.responses");
  const LoadedModel loaded = load_model_or_checkpoint(context, config, options.dtype);
  const model::ModelConfig& architecture = loaded.decoder->config();
  std::vector<analysis::Module> modules;
  if (!options.responses.empty())
    modules = analysis::find_modules(options.response_modules, analysis::ModuleTable(architecture));
  SenseSetup setup = prepare_sense(context, config, architecture);
  comm::agree(context.world, [&] {
    if (!loaded.checkpoint.empty())
      setup.provenance.checkpoint_sha256 = train::origin_of(loaded.checkpoint).hash;
  });
  analysis::NeuronStatistics statistics;
  const auto analyze = [&](const analysis::ResponseSink& responses) {
    statistics =
        analysis::analyse_neurons(context, options, architecture, setup.samples,
                                  [&](const model::Batch& batch, model::ActivationObserver& observer) {
                                    loaded.decoder->observe(batch, observer);
                                  },
                                  {setup.documents.samples.empty() ? nullptr : &setup.documents, responses});
  };
  if (options.responses.empty())
    analyze({});
  else
    analysis::write_response_file(context, {options.responses, modules, setup.samples, setup.provenance},
                                  analyze);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    statistics.provenance = setup.provenance;
    analysis::write_neuron_file(config.run.output, statistics);
    if (!options.csv.empty()) analysis::write_expertise_csv(options.csv, statistics);
    for (std::size_t g = 0; g < statistics.languages.size(); ++g) {
      const auto& selection = statistics.selected[g];
      context.log.info("{}: {} neurons selected, AP >= {:.4f} ({})", statistics.languages[g],
                       selection.neurons.size(), selection.threshold, selection.rule);
      for (const auto& warning : selection.warnings)
        context.log.warn("{}: {}", statistics.languages[g], warning);
    }
    context.log.info("{}: {} neurons, {} languages", config.run.output, statistics.modules.num_neurons(),
                     statistics.languages.size());
  });
  return 0;
}

}  // namespace nmoe::app

// neuronmoe analyze: which neurons of a dense model answer to which language.
#include "commands.hpp"
#include "neuronmoe/analysis/neuron_analysis.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "sense_setup.hpp"

namespace nmoe::app {

int run_analyze(comm::ExecutionContext& context, const AppConfig& config) {
  require_option(config.run.output, "output", "the neurons.h5 to write");
  const LoadedModel loaded = load_for_inference(context, config, "", config.analysis.dtype);
  SenseSetup setup = prepare_sense(context, config, loaded.decoder->config());
  auto statistics = analysis::analyse_neurons(
      context, config.analysis, loaded.decoder->config(), setup.samples,
      [&](const model::Batch& batch, model::ActivationObserver& observer) {
        loaded.decoder->observe(batch, observer);
      },
      setup.documents.samples.empty() ? nullptr : &setup.documents);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    statistics.provenance = setup.provenance;
    analysis::write_neuron_file(config.run.output, statistics);
    if (!config.analysis.csv.empty()) analysis::write_expertise_csv(config.analysis.csv, statistics);
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

// neuronmoe specialize: how specialized the experts of a checkpoint became.
#include <filesystem>

#include "commands.hpp"
#include "neuronmoe/analysis/specialize.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "sense_setup.hpp"

namespace nmoe::app {

int run_specialize(comm::ExecutionContext& context, const AppConfig& config) {
  const std::string& resume = config.run.resume;
  NMOE_CHECK(
      resume != train::resume_auto, config,
      "--resume is not set: the checkpoint (step or run directory) whose experts are measured, or none "
      "for the MLPs of the dense model");
  const LoadedModel loaded = load_for_inference(
      context, config, resume == train::resume_none ? "" : resolve_checkpoint(context, resume),
      config.train.dtype);
  SenseSetup setup = prepare_sense(context, config, loaded.decoder->config());
  auto statistics =
      analysis::analyse_experts(context, config.analysis, loaded.decoder->config(), setup.samples,
                                [&](const model::Batch& batch, model::ActivationObserver& observer) {
                                  loaded.decoder->observe(batch, observer);
                                });
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    statistics.neurons.provenance = setup.provenance;
    analysis::write_expert_file(config.run.output, statistics);
    const std::string stem = std::filesystem::path(config.run.output).replace_extension().string();
    for (std::size_t g = 0; g < statistics.neurons.languages.size(); ++g) {
      const std::string csv = stem + "_" + statistics.neurons.languages[g] + ".csv";
      io::write_file_atomically(csv, analysis::expert_csv(statistics, g));
      context.log.info("{}: {} experts", csv, statistics.experts.size());
    }
    context.log.info("{}: written", config.run.output);
  });
  return 0;
}

}  // namespace nmoe::app

// neuronmoe train: stage 1 (new experts and routers) and stage 2 (routers only) of a mixture of experts.
#include <filesystem>
#include <numeric>

#include "commands.hpp"
#include "expanded_architecture.hpp"
#include "expert_counts.hpp"
#include "model_setup.hpp"
#include "neuronmoe/analysis/expert_probe.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/data/mixture.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "sense_setup.hpp"
#include "training_data.hpp"
#include "trial_read.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

/// Telemetry: the experts measured on the sense sentences every expert_ap.every steps, into the run's
/// expert_probe.h5. Empty if it is not wanted.
std::function<void(std::int64_t)> expert_probe(comm::ExecutionContext& context, const AppConfig& config,
                                               model::Decoder& decoder) {
  if (config.analysis.every == 0) return {};
  auto setup = std::make_shared<SenseSetup>(prepare_sense(context, config, decoder.config()));
  const std::string path = config.run.output + "/expert_probe.h5";
  const std::string earlier = on_rank_zero(context, [&] { return fs::exists(path) ? path : ""; });
  if (!earlier.empty()) verify_h5_inputs(context, {path});  // now, not at the first probe
  return [&context, &config, &decoder, setup, path](std::int64_t step) {
    if (step % config.analysis.every != 0) return;
    auto statistics =
        analysis::analyse_experts(context, config.analysis, decoder.config(), setup->samples,
                                  [&](const model::Batch& batch, model::ActivationObserver& observer) {
                                    decoder.observe(batch, observer);
                                  });
    comm::agree(context.world, [&] {
      if (context.world.rank() != 0) return;
      statistics.neurons.provenance = setup->provenance;
      analysis::append_probe(path, step, statistics);
    });
  };
}

int total(const std::vector<int>& counts) {
  return std::accumulate(counts.begin(), counts.end(), 0);
}

}  // namespace

int run_train(comm::ExecutionContext& context, const AppConfig& config) {
  const bool stage1 = config.train.stage == 1;
  require_step_directory(context, config.run.resume);
  if (!stage1)
    require_option(config.train.init_from, "train.init_from", "stage 2 starts from a checkpoint of stage 1");
  const train::ParallelGroups groups(context.world, config.train.expert_parallel_size);
  const std::string init_from =
      config.train.init_from.empty() ? "" : resolve_checkpoint(context, config.train.init_from);
  if (!init_from.empty()) require_same_base(context, init_from, config.run.model);
  const model::ModelConfig dense = load_architecture(context, config.run.model);
  if (!config.run.experts.empty()) io::require_same_file(context.world, config.run.experts);
  ExpandedArchitecture expanded;
  comm::agree(context.world, [&] { expanded = expanded_architecture(config, dense, init_from); });
  const model::ModelConfig& architecture = expanded.model;
  // Tokens were counted for other experts than an extended mixture has.
  train::MeasuredTokens placed_by =
      placement_tokens(context, config, architecture, expanded.extends ? "" : init_from);
  const data::Mixture mixture =
      load_training_data(context, config, architecture, tokenizers_of(context, config.run.model));
  if (!stage1) require_old_text(config.train, mixture);

  const auto kind = stage1 ? train::RunKind::stage1 : train::RunKind::stage2;
  std::unique_ptr<model::Decoder> decoder;
  comm::agree(context.world, [&] {
    decoder = load_decoder(context,
                           {architecture, config.train.dtype, train::trainables_of(kind),
                            groups.experts(architecture.num_experts, architecture.top_k,
                                           config.train.expert_placement, placed_by.counts)},
                           config.run.model, expanded.extends ? "" : init_from);
    if (init_from.empty() || expanded.extends) decoder->upcycle(config.train.seed);
    if (expanded.extends) model::load_old_experts(*decoder, init_from, config.train.extend_router);
    if (context.world.rank() == 0) io::make_directories(config.run.output);
  });
  if (expanded.extends)
    context.log.info("experts are added to {}: {} exist and stay frozen, {} are new", init_from,
                     total(architecture.num_old_experts),
                     total(architecture.num_experts) - total(architecture.num_old_experts));
  context.log.info("experts, placed by {}:\n{}", placed_by.to_string(),
                   decoder->expert_parallel_group().placement.to_string());
  log_backward(context.log, decoder->freeze_plan(), config.plan.explain);
  train::TrainRun run{kind,
                      with_steps(config.train, mixture),
                      config.run.output,
                      config.run.resume,
                      run_identity(context, config, config.run.model, init_from),
                      expert_probe(context, config, *decoder),
                      std::move(placed_by),
                      machine_of_run(context, config)};
  train::Trainer trainer(context, run, groups, *decoder, mixture);
  const train::TrainResult result = trainer.run();
  if (result.saved_on_signal) return report_saved_on_signal(context, result);
  context.log.info("checkpoint: {}", result.checkpoint);
  return 0;
}

}  // namespace nmoe::app

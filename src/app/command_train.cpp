// neuronmoe train: stage 1 (new experts and routers) and stage 2 (routers only) of a mixture of experts.
#include <filesystem>

#include "commands.hpp"
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

/// Expert counts: from the checkpoint that the run starts from, else (stage 1) from --experts.
model::ModelConfig expanded_architecture(const AppConfig& config, model::ModelConfig architecture,
                                         const std::string& init_from) {
  architecture.top_k = config.train.top_k;
  architecture.release_router = config.train.router_compat == model::RouterCompat::release;
  std::vector<int> wanted;
  if (!config.run.experts.empty())
    wanted = model::load_expert_counts(config.run.experts, architecture.num_layers);
  if (init_from.empty()) {
    architecture.num_experts = wanted;
  } else {
    architecture = model::apply_checkpoint_config(architecture, init_from);
    NMOE_CHECK(config.train.top_k == architecture.top_k, config,
               "train.top_k = {}, but {} was trained with {}; set train.top_k = {}", config.train.top_k,
               init_from, architecture.top_k, architecture.top_k);
    const std::string_view compat = name_of(architecture.router_compat());
    NMOE_CHECK(config.train.router_compat == architecture.router_compat(), config,
               "router.compat = {}, but {} was trained with {}; set router.compat = {}",
               name_of(config.train.router_compat), init_from, compat, compat);
    NMOE_CHECK(wanted.empty() || wanted == architecture.num_experts, config,
               "--experts {} differs from the experts of train.init_from = {}; leave --experts out",
               config.run.experts, init_from);
  }
  NMOE_CHECK(architecture.num_moe_layers() > 0, config,
             "{} gives every layer one expert: there is nothing "
             "to train; raise allocation.e_max or use another list",
             init_from.empty() ? config.run.experts : init_from);
  return architecture;
}

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

}  // namespace

int run_train(comm::ExecutionContext& context, const AppConfig& config) {
  const bool stage1 = config.train.stage == 1;
  require_option(config.run.model, "model", "the Hugging Face directory of the dense base");
  require_step_directory(context, config.run.resume);
  require_option(config.run.output, "output", "the run directory to write");
  if (stage1) {
    if (config.train.init_from.empty())
      require_option(config.run.experts, "experts", "the experts.cfg made by `allocate`");
  } else {
    require_option(config.train.init_from, "train.init_from", "stage 2 starts from a checkpoint of stage 1");
  }
  const train::ParallelGroups groups(context.world, config.train.expert_parallel_size);
  const std::string init_from =
      config.train.init_from.empty() ? "" : resolve_checkpoint(context, config.train.init_from);
  if (!init_from.empty()) require_same_base(context, init_from, config.run.model);
  model::ModelConfig architecture = load_architecture(context, config.run.model);
  if (!config.run.experts.empty()) io::require_same_file(context.world, config.run.experts);
  comm::agree(context.world, [&] { architecture = expanded_architecture(config, architecture, init_from); });
  train::MeasuredTokens placed_by = placement_tokens(context, config, architecture, init_from);
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
                           config.run.model, init_from);
    if (init_from.empty()) decoder->upcycle(config.train.seed);
    if (context.world.rank() == 0) io::make_directories(config.run.output);
  });
  context.log.info("experts, placed by {}:\n{}", placed_by.to_string(),
                   decoder->expert_parallel_group().placement.to_string());
  log_backward(context.log, decoder->freeze_plan(), config.plan.explain);
  train::TrainRun run{kind,
                      with_steps(config.train, mixture),
                      config.run.output,
                      config.run.resume,
                      run_identity(context, config, config.run.model),
                      expert_probe(context, config, *decoder),
                      std::move(placed_by)};
  train::Trainer trainer(context, run, groups, *decoder, mixture);
  const train::TrainResult result = trainer.run();
  if (result.saved_on_signal) return report_saved_on_signal(context, result);
  context.log.info("checkpoint: {}", result.checkpoint);
  return 0;
}

}  // namespace nmoe::app

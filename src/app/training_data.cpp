// Token files of a training run, checked against the model and mixed.
#include "training_data.hpp"

#include <algorithm>
#include <optional>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "neuronmoe/train/schedule.hpp"
#include "trial_read.hpp"

namespace nmoe::app {

data::Mixture load_training_data(comm::ExecutionContext& context, const AppConfig& config,
                                 const model::ModelConfig& architecture, const KnownTokenizers& tokenizers) {
  const auto data_sets = data_sets_of(config);
  std::vector<std::string> files;
  for (const auto& d : data_sets) files.push_back(d.tokens);
  io::require_same_files(context.world, files);
  verify_h5_inputs(context, files);
  std::optional<data::Mixture> mixture;
  comm::agree(context.world, [&] {
    mixture.emplace(data::make_mixture(data_sets, config.train.seq_length, config.train.eos_label,
                                       config.train.seed, config.train.packing, io::SealCheck::done));
    for (const auto& d : mixture->datasets()) require_fitting_tokens(d.file(), tokenizers, architecture);
  });
  require_positions("train.seq_length", config.train.seq_length, architecture);
  context.log.info("data:\n{}", mixture->to_string());
  const std::int64_t micro_batches = config.train.global_batch_size / config.train.micro_batch_size;
  const std::int64_t idle = context.world.size() - micro_batches;
  if (idle > 0 && context.world.rank() == 0)
    context.log.warn(
        "{} ranks for the {} micro-batches of a step (train.global_batch_size / train.micro_batch_size): {} "
        "of them have no sequences of their own; lower train.micro_batch_size or take fewer ranks",
        context.world.size(), micro_batches, idle);
  context.heartbeat.beat();
  return std::move(*mixture);
}

void require_old_text(const train::TrainConfig& config, const data::Mixture& mixture) {
  const bool wanted = config.lpr_form != train::LprLoss::off && config.lpr_loss_coef > 0.0;
  const bool there = std::any_of(mixture.datasets().begin(), mixture.datasets().end(),
                                 [](const auto& d) { return d.num_docs(data::Mark::old_language) > 0; });
  NMOE_CHECK(
      !wanted || there, config,
      "stage 2 has no text in an old language: no document of its {} data sets is marked old, so that "
      "the routing loss has no token; add a [data.<name>] section with the replay text (mark = old), or "
      "set train.lpr_form = off",
      mixture.datasets().size());
}

train::TrainConfig with_steps(train::TrainConfig config, const data::Mixture& mixture) {
  if (config.epochs == 0.0) return config;
  config.steps = train::steps_of_epochs(config.epochs, mixture.num_blocks(), config.micro_batch_size,
                                        config.global_batch_size);
  NMOE_CHECK(config.warmup_steps <= config.steps, config,
             "train.warmup_steps = {} is more than the {} steps that train.epochs = {} makes of {} sequences",
             config.warmup_steps, config.steps, config.epochs, mixture.num_blocks());
  return config;
}

void log_backward(const Logger& log, const model::FreezePlan& plan, bool explain) {
  if (explain) {
    log.info("backward:\n{}", plan.to_string());
    return;
  }
  const auto trained =
      std::count_if(plan.layers.begin(), plan.layers.end(), [](const model::LayerPlan& layer) {
        return layer.attention_weights || layer.base_mlp_weights || layer.experts || layer.router;
      });
  log.info("backward: {} of {} layers train (lowest: layer {}){}; --explain lists each of them", trained,
           plan.layers.size(), plan.lowest_layer, plan.embedding ? ", and the embedding" : "");
}

int report_saved_on_signal(comm::ExecutionContext& context, const train::TrainResult& result) {
  context.log.info("stopped on a signal; saved {}; run the same command again to go on", result.checkpoint);
  return exit_code(ErrorCode::saved_on_signal);
}

}  // namespace nmoe::app

// Token files of a training run, checked against the model and mixed.
#include "training_data.hpp"

#include <algorithm>
#include <optional>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/train/schedule.hpp"

namespace nmoe::app {

data::Mixture load_training_data(comm::ExecutionContext& context, const AppConfig& config,
                                 const model::ModelConfig& architecture,
                                 const std::string& tokenizer_sha256) {
  const auto data_sets = data_sets_of(config);
  std::optional<data::Mixture> mixture;
  comm::agree(context.world, [&] {
    for (const auto& d : data_sets) {
      auto file = io::H5File::open(d.tokens, data::token_file_format);
      const std::int64_t vocab_size = file.read_int_attribute("/", "vocab_size");
      NMOE_CHECK(
          vocab_size <= architecture.vocab_size, bad_data,
          "{}: made with a vocabulary of {} tokens, the model has {}; tokenize with the model's tokenizer",
          d.tokens, vocab_size, architecture.vocab_size);
      const std::string made_with = file.read_string_attribute("/", "tokenizer_sha256");
      NMOE_CHECK(
          tokenizer_sha256.empty() || made_with == tokenizer_sha256, bad_data,
          "{}: made with a tokenizer of hash {}, the model's has {}; tokenize with the model's tokenizer",
          d.tokens, made_with, tokenizer_sha256);
    }
    mixture.emplace(data::make_mixture(data_sets, config.train.seq_length, config.train.eos_label,
                                       config.train.seed, config.train.packing));
  });
  context.log.info("data:\n{}", mixture->to_string());
  context.heartbeat.beat();
  return std::move(*mixture);
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

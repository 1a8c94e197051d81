// neuronmoe pretrain: a dense model from nothing, by the same engine as the stages, with everything
// trainable.
#include <filesystem>

#include "commands.hpp"
#include "model_setup.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/data/mixture.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "training_data.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

void copy_whole(const fs::path& from, const fs::path& to) {
  io::write_file_atomically(to.string(), io::read_file(from.string()));
}

/// The finished Hugging Face directory: weights, config.json and the tokenizer under the name other tools
/// expect (a rank file is a tokenizer.model to Llama's own).
/// @param settings text of tokenizer_config.json, "" for none
void write_model(const model::Decoder& decoder, const data::Tokenizer& tokenizer, const std::string& settings,
                 const std::string& output) {
  model::save_dense_model(decoder, output);
  const fs::path source = tokenizer.path();
  const bool is_json = source.extension() == ".json";
  copy_whole(source, fs::path(output) / (is_json ? "tokenizer.json" : "tokenizer.model"));
  if (!settings.empty())
    io::write_file_atomically((fs::path(output) / "tokenizer_config.json").string(), settings);
}

}  // namespace

int run_pretrain(comm::ExecutionContext& context, const AppConfig& config) {
  const auto& options = config.pretrain;
  require_step_directory(context, config.run.resume);
  const auto tokenizer = load_tokenizer_for(context, options.tokenizer, "");
  io::require_same_file(context.world, options.model_config);
  model::ModelConfig architecture;
  std::string settings;
  comm::agree(context.world, [&] {
    architecture = model::load_model_config(options.model_config);
    settings = data::settings_of_copy(*tokenizer, architecture.bos_token_id);
  });
  const data::Mixture mixture =
      load_training_data(context, config, architecture, {{tokenizer->path(), tokenizer->sha256()}});

  const train::ParallelGroups groups(context.world, 1);
  const auto trainables = train::trainables_of(train::RunKind::pretrain);
  std::unique_ptr<model::Decoder> decoder;
  comm::agree(context.world, [&] {
    decoder = make_decoder(
        context, {architecture, config.train.dtype, trainables, groups.experts(architecture.num_experts)});
    decoder->initialise_dense(config.train.seed);
    if (context.world.rank() == 0) io::make_directories(config.run.output + "/checkpoints");
  });
  log_backward(context.log, decoder->freeze_plan(), config.plan.explain);
  train::TrainRun run{train::RunKind::pretrain, with_steps(config.train, mixture),
                      config.run.output + "/checkpoints", config.run.resume,
                      run_identity(context, config, "")};
  run.machine = machine_of_run(context, config);
  train::Trainer trainer(context, run, groups, *decoder, mixture);
  const train::TrainResult result = trainer.run();
  if (result.saved_on_signal) return report_saved_on_signal(context, result);
  comm::agree(context.world, [&] {
    if (context.world.rank() == 0) write_model(*decoder, *tokenizer, settings, config.run.output);
  });
  context.log.info("model: {}", config.run.output);
  return 0;
}

}  // namespace nmoe::app

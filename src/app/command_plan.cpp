// neuronmoe plan: what a training run would cost on a machine, without running it.

#include <filesystem>

#include "commands.hpp"
#include "expert_counts.hpp"
#include "model_setup.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "neuronmoe/model/freeze_plan.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "neuronmoe/train/plan_time.hpp"
#include "standard_output.hpp"

namespace nmoe::app {
namespace {

train::PlanInput input_of(const AppConfig& config) {
  const std::string& model = config.run.model;
  train::PlanInput input;
  input.model =
      model.ends_with(".json") ? model::load_model_config(model) : model::load_directory_config(model);
  input.model.top_k = config.train.top_k;
  input.model.release_router = config.train.router_compat == model::RouterCompat::release;
  input.config = config.train;
  input.num_ranks = config.machine.nodes * config.machine.gpus_per_node;
  if (config.run.experts.empty()) {
    input.kind = train::RunKind::pretrain;
  } else {
    input.kind = config.train.stage == 1 ? train::RunKind::stage1 : train::RunKind::stage2;
    input.model.num_experts = model::load_expert_counts(config.run.experts, input.model.num_layers);
  }
  return input;
}

/// A plan needs no data, but data that is there has to fit the model, as the run will ask.
void check_data(comm::ExecutionContext& context, const AppConfig& config,
                const model::ModelConfig& architecture) {
  require_positions("train.seq_length", config.train.seq_length, architecture);
  KnownTokenizers tokenizers;
  if (!config.run.model.ends_with(".json")) tokenizers = tokenizers_of(context, config.run.model);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    std::vector<std::string> files;
    if (!config.run.tokens.empty()) files.push_back(config.run.tokens);
    for (const auto& d : config.data) files.push_back(d.tokens);
    for (const std::string& file : files)
      if (std::filesystem::exists(file))
        require_known_tokenizer(file, data::read_token_file_info(file), tokenizers);
  });
}

}  // namespace

int run_plan(comm::ExecutionContext& context, const AppConfig& config) {
  require_option(config.run.model, "model", "a Hugging Face directory or its config.json");
  train::PlanInput input;
  if (config.run.model.ends_with(".json"))
    io::require_same_file(context.world, config.run.model);
  else
    require_same_directory(context, config.run.model);
  if (!config.run.experts.empty()) io::require_same_file(context.world, config.run.experts);
  comm::agree(context.world, [&] { input = input_of(config); });
  check_data(context, config, input.model);
  const bool measured =
      config.train.placement_tokens == train::PlacementTokens::measured && !config.train.init_from.empty();
  input.placed_by = placement_tokens(context, config, input.model,
                                     measured ? resolve_checkpoint(context, config.train.init_from) : "");
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    std::string text = train::plan_report(input, config.machine);
    if (config.plan.explain) {
      const model::FreezePlan freeze = model::make_freeze_plan(input.model, train::trainables_of(input.kind));
      text += "\nfreeze plan (what decoder and optimizer follow)\n" + freeze.to_string();
    }
    print(text);
  });
  return 0;
}

}  // namespace nmoe::app

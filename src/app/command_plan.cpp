// neuronmoe plan: what a training run would cost on a machine, without running it.

#include <filesystem>

#include "commands.hpp"
#include "expanded_architecture.hpp"
#include "expert_counts.hpp"
#include "model_setup.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "neuronmoe/model/freeze_plan.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "neuronmoe/train/idle_ranks.hpp"
#include "neuronmoe/train/plan_report.hpp"
#include "standard_output.hpp"

namespace nmoe::app {
namespace {

/// @param init_from step directory of train.init_from, "" where there is none yet
train::PlanInput input_of(const AppConfig& config, const std::string& init_from, bool& extends) {
  const std::string& model = config.run.model;
  train::PlanInput input;
  input.model =
      model.ends_with(".json") ? model::load_model_config(model) : model::load_directory_config(model);
  input.model.top_k = config.train.top_k;
  input.model.release_router = config.train.router_compat == model::RouterCompat::release;
  input.config = config.train;
  input.num_ranks = config.machine.nodes * config.machine.gpus_per_node;
  if (config.run.experts.empty() && init_from.empty()) {
    input.kind = train::RunKind::pretrain;
  } else {
    input.kind = config.train.stage == 1 ? train::RunKind::stage1 : train::RunKind::stage2;
    ExpandedArchitecture expanded = expanded_architecture(config, input.model, init_from);
    input.model = std::move(expanded.model);
    extends = expanded.extends;
  }
  return input;
}

/// train.init_from as a step directory. A plan may be made before it exists: then "", unless counts of tokens
/// are wanted of it.
std::string checkpoint_of(comm::ExecutionContext& context, const train::TrainConfig& config) {
  const std::string& path = config.init_from;
  if (path.empty()) return "";
  const bool needed = config.placement_tokens == train::PlacementTokens::measured;
  if (needed || !on_rank_zero(context, [&] { return std::filesystem::exists(path) ? path : ""; }).empty())
    return resolve_checkpoint(context, path);
  context.log.info("train.init_from = {} does not exist yet: planned without it", path);
  return "";
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
  NMOE_CHECK(
      config.machine.nodes == 1 || config.machine.network_gbs > 0, config,
      "machine.nodes = {} needs machine.network_gbs > 0, it is {}: the bandwidth between nodes, per GPU",
      config.machine.nodes, config.machine.network_gbs);
  train::PlanInput input;
  if (config.run.model.ends_with(".json"))
    io::require_same_file(context.world, config.run.model);
  else
    require_same_directory(context, config.run.model);
  if (!config.run.experts.empty()) io::require_same_file(context.world, config.run.experts);
  const std::string init_from = checkpoint_of(context, config.train);
  bool extends = false;  // then its tokens were counted for other experts
  comm::agree(context.world, [&] { input = input_of(config, init_from, extends); });
  check_data(context, config, input.model);
  input.placed_by = placement_tokens(context, config, input.model, extends ? "" : init_from);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    const std::string idle = train::idle_ranks_warning(input.config, input.num_ranks);
    if (!idle.empty()) context.log.warn("{}", idle);
    if (input.config.epochs > 0)
      context.log.warn(
          "train.epochs = {} is a number of steps that only the data knows: planned with train.steps = {}; "
          "pass "
          "--train.steps",
          input.config.epochs, input.config.steps);
    std::string text = train::plan_report(input, config.machine, config.plan);
    if (config.plan.explain) {
      const model::FreezePlan freeze = model::make_freeze_plan(input.model, train::trainables_of(input.kind));
      const std::string explanation =
          "freeze plan (what decoder and optimizer follow)\n" + freeze.to_string();
      if (config.plan.format == train::PlanFormat::table)
        text += "\n" + explanation;
      else  // the output holds numbers alone
        context.log.info("{}", explanation);
    }
    print(text);
  });
  return 0;
}

}  // namespace nmoe::app

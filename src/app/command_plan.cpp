// neuronmoe plan: what a training run would cost on a machine, without running it.
#include <fmt/core.h>

#include <cstdio>

#include "commands.hpp"
#include "expert_counts.hpp"
#include "model_setup.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/model/freeze_plan.hpp"
#include "neuronmoe/train/plan_time.hpp"

namespace nmoe::app {
namespace {

train::PlanInput input_of(const AppConfig& config) {
  const std::string& model = config.run.model;
  train::PlanInput input;
  input.model = model::load_model_config(model.ends_with(".json") ? model : model + "/config.json");
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

}  // namespace

int run_plan(comm::ExecutionContext& context, const AppConfig& config) {
  require_option(config.run.model, "model", "a Hugging Face directory or its config.json");
  train::PlanInput input;
  comm::agree(context.world, [&] { input = input_of(config); });
  const bool measured =
      config.train.placement_tokens == train::PlacementTokens::measured && !config.train.init_from.empty();
  input.placed_by = placement_tokens(context, config, input.model,
                                     measured ? resolve_checkpoint(context, config.train.init_from) : "");
  std::string text;
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    text = train::plan_report(input, config.machine);
    if (config.plan.explain) {
      const model::FreezePlan freeze = model::make_freeze_plan(input.model, train::trainables_of(input.kind));
      text += "\nfreeze plan (what decoder and optimizer follow)\n" + freeze.to_string();
    }
  });
  if (context.world.rank() == 0) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace nmoe::app

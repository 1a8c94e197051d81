// Expert counts of a run from its options and from the checkpoint it starts from.
#include "expanded_architecture.hpp"

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"

namespace nmoe::app {
namespace {

/// The checkpoint's experts, refused if the run would compute with them otherwise than they were trained.
model::ModelConfig architecture_of(const AppConfig& config, const model::ModelConfig& dense,
                                   const std::string& init_from) {
  const model::ModelConfig architecture = model::apply_checkpoint_config(dense, init_from);
  NMOE_CHECK(config.train.top_k == architecture.top_k, config,
             "train.top_k = {}, but {} was trained with {}; set train.top_k = {}", config.train.top_k,
             init_from, architecture.top_k, architecture.top_k);
  const std::string_view compat = name_of(architecture.router_compat());
  NMOE_CHECK(config.train.router_compat == architecture.router_compat(), config,
             "router.compat = {}, but {} was trained with {}; set router.compat = {}",
             name_of(config.train.router_compat), init_from, compat, compat);
  return architecture;
}

/// Makes room for more experts.
void extend(model::ModelConfig& architecture, const std::vector<int>& wanted, const AppConfig& config,
            const std::string& init_from) {
  NMOE_CHECK(
      architecture.num_moe_layers() > 0, config,
      "train.init_from = {} has no experts that --experts {} could add to (a checkpoint of pretrain is "
      "dense); leave train.init_from out and pass the dense model with --model",
      init_from, config.run.experts);
  for (std::size_t l = 0; l < wanted.size(); ++l)
    NMOE_CHECK(
        wanted[l] >= architecture.num_experts[l], config,
        "--experts {} gives layer {} {} experts, but train.init_from = {} has {} there; experts are "
        "added and never taken away: give at least {} (allocation.add_to adds to those of a checkpoint)",
        config.run.experts, l, wanted[l], init_from, architecture.num_experts[l],
        architecture.num_experts[l]);
  architecture.num_old_experts = architecture.num_experts;
  architecture.num_experts = wanted;
}

}  // namespace

ExpandedArchitecture expanded_architecture(const AppConfig& config, const model::ModelConfig& dense,
                                           const std::string& init_from) {
  ExpandedArchitecture result{dense};
  model::ModelConfig& architecture = result.model;
  architecture.top_k = config.train.top_k;
  architecture.release_router = config.train.router_compat == model::RouterCompat::release;
  std::vector<int> wanted;
  if (!config.run.experts.empty())
    wanted = model::load_expert_counts(config.run.experts, architecture.num_layers);
  if (init_from.empty()) {
    architecture.num_experts = wanted;
  } else {
    architecture = architecture_of(config, architecture, init_from);
    const bool other = !wanted.empty() && wanted != architecture.num_experts;
    NMOE_CHECK(!other || config.train.stage == 1, config,
               "--experts {} differs from the experts of train.init_from = {}; leave --experts out",
               config.run.experts, init_from);
    if (other) extend(architecture, wanted, config, init_from);
    result.extends = other;
  }
  NMOE_CHECK(architecture.num_moe_layers() > 0, config,
             "{} gives every layer one expert: there is nothing "
             "to train; raise allocation.e_max or use another list",
             init_from.empty() ? config.run.experts : init_from);
  return result;
}

}  // namespace nmoe::app

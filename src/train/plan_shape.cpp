// Sizes, placement and cut of one rank, as the formulas of plan share them.
#include "plan_shape.hpp"

#include "neuronmoe/train/reduce_options.hpp"

namespace nmoe::train {

PlanShape::PlanShape(const PlanInput& the_input, int rank)
    : input(the_input),
      layout(the_input.num_ranks, rank, the_input.config.expert_parallel_size),
      placement(the_input.model.num_experts, the_input.config.expert_parallel_size, the_input.model.top_k,
                model::parse_expert_home(the_input.config.expert_placement), the_input.placed_by.counts),
      freeze(model::make_freeze_plan(the_input.model, trainables_of(the_input.kind))),
      parameters(model::list_parameters(the_input.model, freeze)),
      reduce(reduce_options(the_input.config, the_input.num_ranks)),
      hidden(the_input.model.hidden_size),
      width(the_input.model.intermediate_size),
      element(the_input.config.dtype == "bfloat16" ? 2 : 4),
      query_width(static_cast<std::int64_t>(the_input.model.num_attention_heads) * the_input.model.head_dim),
      key_width(static_cast<std::int64_t>(the_input.model.num_key_value_heads) * the_input.model.head_dim),
      attention_weights(hidden * (2 * query_width + 2 * key_width)) {}

std::int64_t num_reductions(const PlanInput& input) {
  return reduce_options(input.config, input.num_ranks).once_per_step
             ? 1
             : comm::num_micro_steps(input.num_micro_batches(), input.num_ranks);
}

std::vector<int> PlanShape::group_ranks() const {
  std::vector<int> ranks;
  const int size = layout.expert_parallel_size();
  for (int j = 0; j < size; ++j) ranks.push_back(layout.expert_parallel_group() * size + j);
  return ranks;
}

std::vector<ShardUnit> PlanShape::units(bool experts) const {
  std::vector<int> segments;
  std::vector<std::int64_t> sizes;
  for (const model::Parameter& p : parameters) {
    if (!p.trainable || is_owned_expert(p) != experts || !holds(p)) continue;
    segments.push_back(p.last_writer);
    sizes.push_back(p.shape.num_elements());
  }
  return make_shard_units(segments, sizes,
                          experts ? layout.expert_data_parallel_size() : layout.world_size());
}

}  // namespace nmoe::train

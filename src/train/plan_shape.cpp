// Sizes, placement and cut of one rank, as the formulas of plan share them.
#include "plan_shape.hpp"

#include "neuronmoe/train/losses.hpp"
#include "neuronmoe/train/reduce_options.hpp"

namespace nmoe::train {

PlanShape::PlanShape(const PlanInput& the_input, int rank)
    : input(the_input),
      layout(the_input.num_ranks, rank, the_input.config.expert_parallel_size),
      placement(the_input.model.num_experts, the_input.config.expert_parallel_size, the_input.model.top_k,
                the_input.config.expert_placement, the_input.placed_by.counts),
      freeze(model::make_freeze_plan(the_input.model, trainables_of(the_input.kind))),
      parameters(model::list_parameters(the_input.model, freeze)),
      reduce(reduce_options(the_input.config, the_input.num_ranks)),
      dtype(the_input.config.dtype) {}

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

model::StepShape PlanShape::step(std::int64_t num_tokens) const {
  return {input.model,
          freeze,
          placement,
          layout.expert_parallel_size(),
          layout.expert_parallel_rank(),
          dtype,
          num_tokens,
          model::has_auxiliary_loss(auxiliary_scales(input.kind, input.config)),
          global_balancing(input.kind, input.config)};
}

PlanGroup::PlanGroup(const PlanShape& shape, bool experts)
    : size(experts ? shape.layout.expert_data_parallel_size() : shape.layout.world_size()),
      me(experts ? shape.layout.expert_data_parallel_rank() : shape.layout.rank()),
      cut([&] {
        std::vector<int> segments;
        std::vector<std::int64_t> sizes;
        for (const model::Parameter& p : shape.parameters) {
          if (!p.trainable || shape.placement.is_owned(p.layer, p.expert) != experts || !shape.holds(p))
            continue;
          segments.push_back(p.last_writer);
          sizes.push_back(p.shape.num_elements());
        }
        return ShardCut(segments, sizes, size, experts ? shape.layout.expert_parallel_size() : 1,
                        shape.reduce);
      }()) {
  for (std::int64_t s = 0; s < num_reductions(shape.input); ++s)
    counts.push_back(leaf_counts(shape.layout, experts, s, shape.input.num_micro_batches()));
}

}  // namespace nmoe::train

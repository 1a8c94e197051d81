#pragma once
// What the formulas of plan share: sizes, freeze plan, layout, placement and cut of one rank.
#include <vector>

#include "neuronmoe/train/plan.hpp"
#include "neuronmoe/train/sharded_optimizer.hpp"

namespace nmoe::train {

struct PlanShape {
  const PlanInput& input;
  comm::ParallelLayout layout;
  model::ExpertPlacement placement;
  model::FreezePlan freeze;
  std::vector<model::Parameter> parameters;
  ReduceOptions reduce;
  std::int64_t hidden, width, element;  // D, F, bytes of a weight or activation
  std::int64_t query_width, key_width;  // H·d, G·d
  std::int64_t attention_weights;       // of one layer's four projections

  PlanShape(const PlanInput& the_input, int rank);
  /// World ranks of this rank's expert-parallel group.
  std::vector<int> group_ranks() const;
  bool holds(const model::Parameter& p) const {
    return !p.is_new_expert() || placement.holds(p.layer, p.expert, layout.expert_parallel_rank());
  }
  bool is_owned_expert(const model::Parameter& p) const {
    return p.is_new_expert() && !placement.is_replicated(p.layer, p.expert);
  }
  /// The cut of one group of trainable parameters of this rank.
  std::vector<ShardUnit> units(bool experts) const;
};

/// Of both groups of parameters, bytes.
struct BufferPlan {
  std::int64_t messages = 0, partial_sums = 0;
};
BufferPlan plan_buffers(const PlanShape& shape);

/// How often gradients go to their owners in a step.
std::int64_t num_reductions(const PlanInput& input);

}  // namespace nmoe::train

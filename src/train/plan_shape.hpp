#pragma once
// What the formulas of plan share: freeze plan, layout, placement and cut of one rank.
#include <vector>

#include "neuronmoe/model/step_cost.hpp"
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
  DType dtype;  ///< of weights and activations

  PlanShape(const PlanInput& the_input, int rank);
  /// World ranks of this rank's expert-parallel group.
  std::vector<int> group_ranks() const;
  bool holds(const model::Parameter& p) const {
    return !p.is_new_expert() || placement.holds(p.layer, p.expert, layout.expert_parallel_rank());
  }
  /// `num_tokens` of this rank as the decoder sees them; refers to this.
  model::StepShape step(std::int64_t num_tokens) const;
};

/// One group of trainable parameters of a rank, as its ShardGroup has it.
struct PlanGroup {
  int size, me;
  ShardCut cut;
  std::vector<std::vector<int>> counts;  ///< [reduction of a step][source rank] leaves

  /// Owned experts among their holders, or all other parameters over the world.
  PlanGroup(const PlanShape& shape, bool experts);
};

/// How often gradients go to their owners in a step.
std::int64_t num_reductions(const PlanInput& input);

}  // namespace nmoe::train

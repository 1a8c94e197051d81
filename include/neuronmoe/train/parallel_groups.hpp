#pragma once
// The expert-parallel and expert-data-parallel groups of this rank as communicators. Made by app's train
// command, used by Trainer.
#include <memory>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/comm/layout.hpp"
#include "neuronmoe/model/token_dispatcher.hpp"

namespace nmoe::train {

/// The groups of a layout as communicators. Made collectively over the world; outlives model and optimizer.
struct ParallelGroups {
  comm::ParallelLayout layout;
  std::unique_ptr<comm::Communicator> expert_parallel, expert_data_parallel;
  ParallelGroups(comm::Communicator& world, int expert_parallel_size);
  /// Returns the placement of a model's experts over this rank's group. Other arguments: see ExpertPlacement.
  model::ExpertParallelGroup experts(const std::vector<int>& num_experts, int top_k = 0,
                                     model::ExpertHome home = model::ExpertHome::owned,
                                     const model::ExpertTokens& measured = {}) const;
};

}  // namespace nmoe::train

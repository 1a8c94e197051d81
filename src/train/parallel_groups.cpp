// The world split into this rank's expert-parallel and expert-data-parallel groups.
#include "neuronmoe/train/parallel_groups.hpp"

namespace nmoe::train {

ParallelGroups::ParallelGroups(comm::Communicator& world, int expert_parallel_size)
    : layout(world.size(), world.rank(), expert_parallel_size),
      expert_parallel(world.split(layout.expert_parallel_group(), layout.expert_parallel_rank())),
      expert_data_parallel(world.split(layout.expert_parallel_rank(), layout.expert_parallel_group())) {}

model::ExpertParallelGroup ParallelGroups::experts(const std::vector<int>& num_experts, int top_k,
                                                   model::ExpertHome home,
                                                   const model::ExpertTokens& measured) const {
  return {*expert_parallel,
          model::ExpertPlacement(num_experts, layout.expert_parallel_size(), top_k, home, measured)};
}

}  // namespace nmoe::train

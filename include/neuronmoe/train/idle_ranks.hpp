#pragma once
// Ranks that a batch leaves without work, and the setting that feeds them. Said by Trainer at the start of a
// run and by `plan`.
#include <cstdint>
#include <string>

#include "neuronmoe/train/config.hpp"

namespace nmoe::train {

/// How the micro-batches of a step meet the ranks.
struct RankUse {
  std::int64_t num_micro_batches = 0;  ///< of a step
  std::int64_t turns = 0;              ///< micro-steps until all are done
  std::int64_t idle = 0;               ///< ranks without a micro-batch in the last turn
  double share = 1;                    ///< micro-batches / (turns x ranks)
};
RankUse rank_use(const TrainConfig& config, int num_ranks);

/// Returns the largest micro-batch up to train.micro_batch_size that gives every rank equally many, 0 if
/// there is none.
std::int64_t feeding_micro_batch_size(const TrainConfig& config, int num_ranks);

/// Returns a line with both numbers and the setting that feeds the idle ranks, "" if none is idle. Not
/// collective.
std::string idle_ranks_warning(const TrainConfig& config, int num_ranks);

}  // namespace nmoe::train

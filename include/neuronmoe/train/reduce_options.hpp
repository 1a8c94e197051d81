#pragma once
// How gradients travel to their owners. Used by ShardGroup, by Trainer and by `neuronmoe plan`.
#include <cstdint>

#include "neuronmoe/tensor/dtype.hpp"
#include "neuronmoe/train/config.hpp"

namespace nmoe::train {

/// How gradients travel. None of these but wire_dtype and once_per_step changes a bit of the result.
struct ReduceOptions {
  std::int64_t bucket_bytes = std::int64_t{1} << 25;  ///< of one message buffer
  bool overlap = true;                ///< collectives run while backward and the next forward compute
  bool zero = true;                   ///< false: every rank keeps and updates the whole optimizer state
  DType wire_dtype = DType::float32;  ///< leaves are rounded to it before they travel; sums are float32
  bool once_per_step = false;  ///< a leaf is the sum of a rank's micro-batches of a step, not one of them
};

/// Returns what the keys of a config say about how gradients travel between `num_ranks`. Where no rank has
/// more than one micro-batch in a step, one reduction per step is what happens anyway.
ReduceOptions reduce_options(const TrainConfig& config, int num_ranks);

}  // namespace nmoe::train

// Options of the gradient reduction, from the config.
#include "neuronmoe/train/reduce_options.hpp"

namespace nmoe::train {

ReduceOptions reduce_options(const TrainConfig& config, int num_ranks) {
  return {config.bucket_bytes, config.overlap, config.zero, config.gradient_dtype,
          config.reduce_every == ReduceEvery::step &&
              config.global_batch_size / config.micro_batch_size > std::int64_t{num_ranks}};
}

}  // namespace nmoe::train

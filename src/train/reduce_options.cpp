// Options of the gradient reduction, from the config.
#include "neuronmoe/train/reduce_options.hpp"

namespace nmoe::train {

ReduceOptions reduce_options(const TrainConfig& config, int num_ranks) {
  return {config.bucket_bytes, config.overlap, config.zero,
          config.gradient_dtype == "bfloat16" ? DType::bfloat16 : DType::float32,
          config.reduce_every == "step" &&
              config.global_batch_size / config.micro_batch_size > std::int64_t{num_ranks}};
}

}  // namespace nmoe::train

// What a kind of run trains, and how its config lets gradients travel, how many steps its epochs are.
#include <algorithm>
#include <cmath>

#include "neuronmoe/train/trainer.hpp"

namespace nmoe::train {

model::TrainableSet trainables_of(RunKind kind) {
  switch (kind) {
    case RunKind::pretrain:
      return model::TrainableSet::all;
    case RunKind::stage1:
      return model::TrainableSet::experts_and_routers;
    case RunKind::stage2:
      return model::TrainableSet::routers;
  }
  return model::TrainableSet::none;
}

ReduceOptions reduce_options(const TrainConfig& config, int num_ranks) {
  return {config.bucket_bytes, config.overlap, config.zero,
          config.gradient_dtype == "bfloat16" ? DType::bfloat16 : DType::float32,
          config.reduce_every == "step" &&
              config.global_batch_size / config.micro_batch_size > std::int64_t{num_ranks}};
}

std::int64_t steps_of_epochs(double epochs, std::int64_t num_sequences, std::int64_t micro_batch_size,
                             std::int64_t global_batch_size) {
  const std::int64_t micro_batches = (num_sequences + micro_batch_size - 1) / micro_batch_size;
  const std::int64_t per_epoch =
      std::max<std::int64_t>(1, micro_batches / (global_batch_size / micro_batch_size));
  return std::max<std::int64_t>(1, std::llround(std::ceil(epochs * static_cast<double>(per_epoch))));
}

}  // namespace nmoe::train

// Learning rate and number of steps of a run.
#include "neuronmoe/train/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nmoe::train {

double cosine_learning_rate(double peak, double min_ratio, std::int64_t warmup, std::int64_t total,
                            std::int64_t t) {
  if (t < warmup) return peak * static_cast<double>(t) / static_cast<double>(warmup);
  const double progress =
      static_cast<double>(t - warmup) / static_cast<double>(std::max<std::int64_t>(1, total - warmup));
  const double cosine = 0.5 * (1.0 + std::cos(std::numbers::pi * std::min(1.0, progress)));
  return peak * (min_ratio + (1.0 - min_ratio) * cosine);
}

std::int64_t steps_of_epochs(double epochs, std::int64_t num_sequences, std::int64_t micro_batch_size,
                             std::int64_t global_batch_size) {
  const std::int64_t micro_batches = (num_sequences + micro_batch_size - 1) / micro_batch_size;
  const std::int64_t per_epoch =
      std::max<std::int64_t>(1, micro_batches / (global_batch_size / micro_batch_size));
  return std::max<std::int64_t>(1, std::llround(std::ceil(epochs * static_cast<double>(per_epoch))));
}

}  // namespace nmoe::train

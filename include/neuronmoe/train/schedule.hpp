#pragma once
// How long a run trains and at what learning rate (METHOD 7.1): pure arithmetic. Used by Trainer and app.
#include <cstdint>

namespace nmoe::train {

/// Returns the learning rate of step `t` = 0, 1, ...: linear warm-up, then cosine to min_ratio · peak at
/// `total` (METHOD 7.1).
double cosine_learning_rate(double peak, double min_ratio, std::int64_t warmup, std::int64_t total,
                            std::int64_t t);

/// Returns the optimizer steps of `epochs` passes (METHOD 7.1): ceil(epochs · floor(micro-batches in the data
/// / micro-batches of a step)), a last shorter micro-batch counted, at least 1. The reference code's world
/// size W does not enter: W = 1 in its formula, the same for every table of METHOD 7.3.
std::int64_t steps_of_epochs(double epochs, std::int64_t num_sequences, std::int64_t micro_batch_size,
                             std::int64_t global_batch_size);

}  // namespace nmoe::train

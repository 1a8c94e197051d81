#pragma once
// The losses of a run: how auxiliary ones are scaled, and where ranks put those of a micro-batch when they
// add them up. Used by Trainer and by `neuronmoe plan`.
#include "neuronmoe/model/router.hpp"
#include "neuronmoe/train/config.hpp"
#include "neuronmoe/train/run_kind.hpp"

namespace nmoe::train {

/// The losses of a micro-batch as ranks add them up, one float64 each: the language model's sum, its labels,
/// then model::auxiliary_losses.
struct LossSlots {
  static constexpr int lm_sum = 0, num_labels = 1, first_auxiliary = 2;
  static constexpr int count = first_auxiliary + model::num_auxiliary_losses;
};

/// Returns the scales of the auxiliary losses of a micro-batch; that of the language model's loss, which
/// depends on the batch, is 0.
model::LossScales auxiliary_scales(RunKind kind, const TrainConfig& config);
/// Returns whether the balancing loss is taken from statistics of all micro-batches of a step.
bool global_balancing(RunKind kind, const TrainConfig& config);

}  // namespace nmoe::train

#pragma once
// What a run trains. Used by Trainer, plan and app.
#include "neuronmoe/model/parameter.hpp"
#include "neuronmoe/model/router.hpp"
#include "neuronmoe/train/config.hpp"

namespace nmoe::train {

/// What is trained, and with which auxiliary loss (METHOD 6.6).
enum class RunKind { pretrain, stage1, stage2 };
model::TrainableSet trainables_of(RunKind kind);
/// Returns the scales of the auxiliary losses of a micro-batch in such a run; that of the language model's
/// loss, which depends on the batch, is 0.
model::LossScales auxiliary_scales(RunKind kind, const TrainConfig& config);
/// Whether the balancing loss is taken from statistics of all micro-batches of a step.
bool global_balancing(RunKind kind, const TrainConfig& config);

}  // namespace nmoe::train

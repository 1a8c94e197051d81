#pragma once
// What a run trains. Used by Trainer, plan and app.
#include "neuronmoe/model/parameter.hpp"

namespace nmoe::train {

/// What is trained, and with which auxiliary loss (METHOD 6.6).
enum class RunKind { pretrain, stage1, stage2 };
model::TrainableSet trainables_of(RunKind kind);

}  // namespace nmoe::train

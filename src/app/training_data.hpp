#pragma once
// What `pretrain` and `train` share: their data, what the log says of backward and how they end.
#include "model_setup.hpp"
#include "neuronmoe/data/mixture.hpp"
#include "neuronmoe/model/freeze_plan.hpp"

namespace nmoe::app {

/// The mixture of the config's data sets, checked against the model's embeddings and positions and against
/// the tokenizers that fit it. Collective.
data::Mixture load_training_data(comm::ExecutionContext& context, const AppConfig& config,
                                 const model::ModelConfig& architecture, const KnownTokenizers& tokenizers);

/// Demands text in an old language for the routing loss of stage 2, unless it is off. @throws Error(config)
void require_old_text(const train::TrainConfig& config, const data::Mixture& mixture);

/// The settings of a run: train.steps as train.epochs gives it for these data, if it is set.
/// @throws Error(config) if the warm-up is longer
train::TrainConfig with_steps(train::TrainConfig config, const data::Mixture& mixture);

/// Logs in one line how many layers train, or with `explain` a line per segment of backward, as
/// `plan --explain` prints them.
void log_backward(const Logger& log, const model::FreezePlan& plan, bool explain);

/// Says how to go on; returns 85.
int report_saved_on_signal(comm::ExecutionContext& context, const train::TrainResult& result);

}  // namespace nmoe::app

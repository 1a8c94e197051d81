#pragma once
// Which counts of tokens decide where experts live (train.placement_tokens). Shared by train and plan.
#include "neuronmoe/app/config.hpp"
#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/train/expert_tokens.hpp"

namespace nmoe::app {

/// Counts of train.placement_tokens_from, else of the checkpoint in --output that a resume would find, else
/// of the step directory `init_from` ("" = none). Empty for train.placement_tokens = expected and, with a
/// line in the log, where no checkpoint has any. Collective over the world.
/// @throws Error(bad_data) for counts of another model, or none where placement_tokens_from says so
train::MeasuredTokens placement_tokens(comm::ExecutionContext& context, const AppConfig& config,
                                       const model::ModelConfig& architecture, const std::string& init_from);

}  // namespace nmoe::app

#pragma once
// How many experts the layers of a run have, and which of them were there before. Shared by train and plan.
#include <string>

#include "neuronmoe/app/config.hpp"

namespace nmoe::app {

/// The mixture that a run trains.
struct ExpandedArchitecture {
  model::ModelConfig model;
  /// Whether stage 1 adds experts to those of the checkpoint: num_old_experts are the checkpoint's then.
  bool extends = false;
};

/// Expert counts from --experts or from the checkpoint that the run starts from; from --experts as well if
/// stage 1 adds to the checkpoint's. Not collective.
/// @param dense the base   @param init_from step directory of train.init_from, or ""
/// @throws Error(config) for counts and options that do not fit the checkpoint, Error(bad_data) for the
/// checkpoint
ExpandedArchitecture expanded_architecture(const AppConfig& config, const model::ModelConfig& dense,
                                           const std::string& init_from);

}  // namespace nmoe::app

#pragma once
// What `neuronmoe plan` prints: every number with its unit, a low and a high estimate where there is one, and
// what it rests on.
#include <string>

#include "neuronmoe/train/machine.hpp"
#include "neuronmoe/train/plan.hpp"
#include "neuronmoe/train/plan_config.hpp"

namespace nmoe::train {

/// Returns the report in the format of plan.format: parameters, work, memory, bytes, time, checkpoints and
/// jobs of the run as configured, and of 1 to 64 nodes of the machine.
/// @throws Error(bad_data, config) as compute_rate     Not collective.
std::string plan_report(const PlanInput& input, const MachineConfig& machine, const PlanConfig& plan);

}  // namespace nmoe::train

#pragma once
// From the time of a step to what a proposal asks for: hours, node-hours, jobs, checkpoints, with a low and a
// high estimate, for the run that was configured and for other numbers of nodes. Used by plan_report.
#include <cstdint>
#include <optional>
#include <vector>

#include "neuronmoe/train/idle_ranks.hpp"
#include "neuronmoe/train/measured_rate.hpp"
#include "neuronmoe/train/plan_config.hpp"
#include "neuronmoe/train/plan_time.hpp"

namespace nmoe::train {

/// A number between what comes out if all goes well and what if it does not; low <= value <= high.
struct Estimate {
  double low = 0, value = 0, high = 0;
};
Estimate operator*(const Estimate& a, double factor);
Estimate operator+(const Estimate& a, const Estimate& b);

/// Shares of machine.gemm_tflops that a step reaches: by the machine's config, or as a run measured it.
struct ComputeRate {
  double slow = 0, value = 0, fast = 0;
  std::optional<MeasuredRate> measured;
};
/// @throws Error(config) if machine.gemm_efficiency_low or _high lies on the wrong side of the share between
/// them; Error(bad_data) as measured_rate
ComputeRate compute_rate(const MachineConfig& machine, const PlanConfig& plan);

/// Returns the seconds between saves that lose the least time to saving and to failures, sqrt(2 · save_s ·
/// MTBF of the job) (Young and Daly), for a save that takes `save_s`.
double best_save_interval_s(double save_s, const MachineConfig& machine, int num_ranks);

/// What a run costs; times in seconds.
struct RunCost {
  TimePlan time;  ///< of a step, at the share between low and high
  /// Low: the fast share. High: the slow one, and nothing that travels is hidden.
  Estimate step_s;
  Estimate tokens_per_s;
  std::int64_t checkpoint_bytes = 0, num_saves = 0;
  Estimate save_s;                    ///< of one checkpoint, a factor of 2 either way
  Estimate run_s;                     ///< all steps and saves
  double mtbf_s = 0;                  ///< of the whole job
  Estimate save_interval_s;           ///< best_save_interval_s
  Estimate analysis_s, evaluation_s;  ///< on the same ranks: forward passes alone
  /// Jobs of `job_hours` that the run takes, one after another.
  Estimate jobs(double job_hours) const;
};
RunCost run_cost(const PlanInput& input, const MachineConfig& machine, const ComputeRate& rate,
                 const PlanConfig& plan);

/// The whole batch over more ranks, or a batch that grows with them (and as many tokens in fewer steps, which
/// is another training).
enum class Scaling { strong, weak };
constexpr auto enum_names(Scaling) {
  return std::to_array<EnumName<Scaling>>({{Scaling::strong, "strong"}, {Scaling::weak, "weak"}});
}

/// The same training on `nodes` nodes: in the layout and with the micro-batch that fit and are the fastest.
struct NodePlan {
  int nodes = 1;
  PlanInput input;
  LayoutChoice layout;
  RunCost cost;
};
/// 1, 2, 4 ... 64 nodes with up to 1,024 GPUs, or one where the machine has no network.
std::vector<NodePlan> plan_nodes(const PlanInput& input, const MachineConfig& machine,
                                 const ComputeRate& rate, const PlanConfig& plan, Scaling scaling);

}  // namespace nmoe::train

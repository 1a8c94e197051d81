// Hours, jobs and checkpoints of a run from the time of its step.
#include "neuronmoe/train/plan_cost.hpp"

#include <algorithm>
#include <cmath>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/train/checkpoint.hpp"
#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

/// Nobody has saved a checkpoint on a parallel file system yet: half and twice the time are as likely.
constexpr double save_range = 2.0;

MachineConfig with_share(MachineConfig machine, double share) {
  machine.gemm_efficiency = share;
  return machine;
}

std::int64_t checkpoint_bytes_of(const PlanInput& input) {
  const model::FreezePlan freeze = model::make_freeze_plan(input.model, trainables_of(input.kind));
  std::int64_t bytes = 0;
  for (const model::Parameter& p : model::list_parameters(input.model, freeze))
    bytes += checkpoint_bytes(p, input.config.dtype);
  return bytes;
}

/// FLOPs of a forward pass, per token; of the dense base without its lm-head if `layers_only`.
double forward_flops_per_token(PlanInput input, bool layers_only) {
  input.num_ranks = 1;
  input.config.expert_parallel_size = 1;
  if (layers_only) {
    input.kind = RunKind::pretrain;
    input.model.num_experts.assign(input.model.num_experts.size(), 1);
    input.model.num_old_experts.clear();
    input.placed_by = {};
  }
  const RankPlan plan = plan_counts(input, 0, balanced_routing(input));
  double flops = 0;
  for (std::size_t s = layers_only ? 1 : 0; s < plan.segments.size(); ++s)
    flops += static_cast<double>(plan.segments[s].forward_flops);
  return flops / static_cast<double>(input.config.global_batch_size * input.config.seq_length);
}

/// @param flops of the machine's ranks together
Estimate seconds_of(double flops, const MachineConfig& machine, const ComputeRate& rate, int num_ranks) {
  const double peak = machine.gemm_tflops * 1e12 * num_ranks;
  return {flops / (peak * rate.fast), flops / (peak * rate.value), flops / (peak * rate.slow)};
}

/// Time between failures of a job on so many GPUs.
double mtbf_s(const MachineConfig& machine, int num_ranks) {
  return machine.mtbf_gpu_hours * 3600 / num_ranks;
}

}  // namespace

Estimate operator*(const Estimate& a, double factor) {
  return {a.low * factor, a.value * factor, a.high * factor};
}
Estimate operator+(const Estimate& a, const Estimate& b) {
  return {a.low + b.low, a.value + b.value, a.high + b.high};
}

ComputeRate compute_rate(const MachineConfig& machine, const PlanConfig& plan) {
  ComputeRate rate;
  if (!plan.calibrate.empty()) {
    rate.measured = measured_rate(plan.calibrate);
    const double peak = machine.gemm_tflops * 1e12;
    rate.slow = rate.measured->slow / peak;
    rate.value = rate.measured->median / peak;
    rate.fast = rate.measured->fast / peak;
    return rate;
  }
  rate.value = machine.gemm_efficiency;
  rate.slow = machine.gemm_efficiency_low > 0 ? machine.gemm_efficiency_low : rate.value * 2 / 3;
  rate.fast = machine.gemm_efficiency_high > 0 ? machine.gemm_efficiency_high
                                               : std::max(rate.value, std::min(1.0, rate.value * 5 / 4));
  NMOE_CHECK(rate.slow <= rate.value && rate.value <= rate.fast, config,
             "machine.gemm_efficiency = {} does not lie between machine.gemm_efficiency_low = {} and "
             "machine.gemm_efficiency_high = {}; change one of them (0 = derived from the first)",
             rate.value, rate.slow, rate.fast);
  return rate;
}

Estimate RunCost::jobs(double job_hours) const {
  const auto jobs = [&](double seconds) { return std::ceil(seconds / (job_hours * 3600)); };
  return {jobs(run_s.low), jobs(run_s.value), jobs(run_s.high)};
}

double best_save_interval_s(double save_s, const MachineConfig& machine, int num_ranks) {
  return std::sqrt(2 * save_s * mtbf_s(machine, num_ranks));
}

RunCost run_cost(const PlanInput& input, const MachineConfig& machine, const ComputeRate& rate,
                 const PlanConfig& plan) {
  const TrainConfig& c = input.config;
  RunCost cost;
  const auto time = [&](double share) {
    return plan_time(input, with_share(machine, share), ReduceRoute::direct);
  };
  cost.time = time(rate.value);
  cost.step_s = {time(rate.fast).step_s(), cost.time.step_s(), time(rate.slow).serial_step_s()};
  const auto tokens = static_cast<double>(c.global_batch_size * c.seq_length);
  cost.tokens_per_s = {tokens / cost.step_s.high, tokens / cost.step_s.value, tokens / cost.step_s.low};
  cost.checkpoint_bytes = checkpoint_bytes_of(input);
  const double ranks_gbs = machine.save_gbs * input.num_ranks;
  const double save_gbs = machine.storage_gbs > 0 ? std::min(ranks_gbs, machine.storage_gbs) : ranks_gbs;
  const double save_s = static_cast<double>(cost.checkpoint_bytes) / (save_gbs * 1e9);
  cost.save_s = {save_s / save_range, save_s, save_s * save_range};
  cost.num_saves = c.save_every > 0 ? (c.steps + c.save_every - 1) / c.save_every : 1;
  cost.run_s = cost.step_s * static_cast<double>(c.steps) + cost.save_s * static_cast<double>(cost.num_saves);
  cost.mtbf_s = mtbf_s(machine, input.num_ranks);
  const auto interval = [&](double seconds) {
    return best_save_interval_s(seconds, machine, input.num_ranks);
  };
  cost.save_interval_s = {interval(cost.save_s.low), interval(cost.save_s.value), interval(cost.save_s.high)};
  cost.analysis_s =
      seconds_of(plan.analysis_tokens * forward_flops_per_token(input, true), machine, rate, input.num_ranks);
  cost.evaluation_s = seconds_of(plan.evaluation_tokens * forward_flops_per_token(input, false), machine,
                                 rate, input.num_ranks);
  return cost;
}

std::vector<NodePlan> plan_nodes(const PlanInput& input, const MachineConfig& machine,
                                 const ComputeRate& rate, const PlanConfig& plan, Scaling scaling) {
  constexpr int most_nodes = 64, most_ranks = 1024;  // what takes a second
  std::vector<NodePlan> plans;
  const bool strong = scaling == Scaling::strong;
  const MachineConfig expected = with_share(machine, rate.value);
  for (int nodes = 1; nodes <= (machine.network_gbs > 0 ? most_nodes : 1); nodes *= 2) {
    if (nodes > 1 && nodes * machine.gpus_per_node > most_ranks) break;
    NodePlan& of_nodes = plans.emplace_back();
    of_nodes.nodes = nodes;
    of_nodes.layout = plan_layouts(input, expected, nodes, strong, ReduceRoute::direct).front();
    of_nodes.input = input;
    of_nodes.input.num_ranks = nodes * machine.gpus_per_node;
    TrainConfig& c = of_nodes.input.config;
    const std::int64_t sequences = c.global_batch_size * c.steps;
    if (!strong) c.global_batch_size = c.micro_batch_size * of_nodes.input.num_ranks;
    c.micro_batch_size = of_nodes.layout.micro_batch_size;
    c.expert_parallel_size = of_nodes.layout.expert_parallel_size;
    c.steps = (sequences + c.global_batch_size - 1) / c.global_batch_size;
    of_nodes.cost = run_cost(of_nodes.input, machine, rate, plan);
  }
  return plans;
}

}  // namespace nmoe::train

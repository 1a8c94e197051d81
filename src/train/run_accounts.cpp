// What a run counted beside what was planned for its routing, as numbers and as text.
#include "neuronmoe/train/run_accounts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "neuronmoe/train/measured_rate.hpp"
#include "neuronmoe/train/plan_cost.hpp"
#include "neuronmoe/train/plan_time.hpp"

namespace nmoe::train {

void RunAccounts::add(const StepMetrics& step) {
  if (num_steps == 0) first_allocations = device_memory().num_allocations;
  ++num_steps;
  if (!step.skipped) ++num_updates;
  flops += step.flops;
  step_s.push_back(step.step_s);
  for (const auto& [operation, n] : step.bytes) {
    if (n > 0) bytes[operation] += n;
  }
}

void RunAccounts::finish(const PlanInput& input, const MachineConfig& on, comm::Communicator& world,
                         const model::Decoder& decoder, const ShardedOptimizer& optimizer, Stream& stream) {
  machine = on;
  num_ranks = world.size();
  modeled_step_s = plan_time(input, machine, ReduceRoute::direct).step_s();
  std::vector<std::int64_t> mine;
  for (const auto& layer : decoder.routed_slots()) mine.insert(mine.end(), layer.begin(), layer.end());
  const auto per_rank = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> all(mine.size() * static_cast<std::size_t>(world.size()));
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(world.size()), per_rank);
  world
      .all_gather_v({all.data(), DType::int64, {static_cast<std::int64_t>(all.size())}}, counts,
                    {mine.data(), DType::int64, {per_rank}}, stream)
      .wait();
  RoutingLoad routing;
  auto next = all.begin();
  for (int r = 0; r < world.size(); ++r) {
    auto& layers = routing.emplace_back();
    for (const auto& layer : decoder.routed_slots()) {
      const auto end = next + static_cast<std::ptrdiff_t>(layer.size());
      layers.emplace_back(next, end);
      next = end;
    }
  }
  const RankPlan plan = plan_counts(input, world.rank(), routing, num_steps, num_updates);
  planned_flops = plan.flops();
  planned_bytes = plan.bytes();
  balanced_flops = num_steps * plan_counts(input, world.rank(), balanced_routing(input)).flops();
  planned_memory = plan_memory(input, world.rank());
  device = device_memory();
  if (device.num_allocations > 0) card = card_memory();
  memory.weights = decoder.weight_bytes();
  memory.gradients = decoder.gradient_bytes();
  const model::StepBytes peak = decoder.peak_bytes();
  memory.saved = peak.saved;
  memory.scratch = peak.scratch;
  memory.to_experts = peak.to_experts;
  memory.from_experts = peak.from_experts;
  for (const ShardGroup* group : optimizer.groups()) {
    memory.gradient_sum += group->gradient_bytes();
    memory.optimizer += group->state_bytes();
    memory.buffers += group->buffer_bytes();
    memory.partial_sums += group->partial_sum_bytes();
  }
}

double RunAccounts::measured_step_s() const {
  const auto all = static_cast<std::int64_t>(step_s.size());
  std::vector<double> sorted(step_s.begin() + (all > warm_up_steps ? warm_up_steps : 0), step_s.end());
  std::sort(sorted.begin(), sorted.end());
  return quantile(sorted, 0.5);
}

std::string RunAccounts::saves_text() const {
  if (save_s.empty()) return "";
  std::vector<double> sorted = save_s;
  std::sort(sorted.begin(), sorted.end());
  const double median = quantile(sorted, 0.5), step = measured_step_s();
  const double in_saves = std::accumulate(save_s.begin(), save_s.end(), 0.0);
  const double in_steps = std::accumulate(step_s.begin(), step_s.end(), 0.0);
  const double interval = best_save_interval_s(median, machine, num_ranks);
  return fmt::format(
      "saves: {} in {:.3g} s (median {:.3g} s, {:.1f} MB, {:.0f} MB/s), {:.1f} % of {:.4g} s; effective "
      "training time {:.1f} %; with a failure every {:g} GPU-hours the best interval is {:.4g} s, "
      "--train.save_every {:.0f}\n",
      save_s.size(), in_saves, median, saved_bytes * 1e-6, saved_bytes * 1e-6 / median,
      100 * in_saves / wall_s, wall_s, 100 * in_steps / wall_s, machine.mtbf_gpu_hours, interval,
      std::max(1.0, std::round(interval / step)));
}

std::string RunAccounts::to_string() const {
  const auto sum = [](const std::map<std::string, std::int64_t>& parts) {
    std::int64_t total = 0;
    for (const auto& [operation, n] : parts) total += n;
    return total;
  };
  const auto with = [](std::int64_t planned, std::int64_t counted) {
    return fmt::format("{} planned, {} counted{}", planned, counted,
                       planned == counted ? "" : " (DIFFERENT)");
  };
  std::string text = fmt::format("FLOPs of rank 0 in {} steps: {} (balanced routing would be {})\n",
                                 num_steps, with(planned_flops, flops), balanced_flops);
  text += fmt::format("bytes sent by rank 0: {}\n", with(sum(planned_bytes), sum(bytes)));
  const double measured = measured_step_s(), rate = static_cast<double>(flops) / num_steps / measured / 1e12;
  text += fmt::format(
      "time of a step: {:.4g} s modeled ({}: {:g} TFLOP/s x {:.4g} %), {:.4g} s measured (median), {:.3g} x; "
      "rank 0 "
      "computed {:.4g} TFLOP/s, {:.3g} % of the {:g} (plan --plan.calibrate plans with it)\n",
      modeled_step_s, machine.name, machine.gemm_tflops, 100 * machine.gemm_efficiency, measured,
      measured / modeled_step_s, rate, 100 * rate / machine.gemm_tflops, machine.gemm_tflops);
  text += saves_text();
  text += fmt::format(
      "memory of rank 0, MB planned/counted: weights {:.1f}/{:.1f}, gradients "
      "{:.1f}/{:.1f}, optimizer {:.1f}/{:.1f}, activations {:.1f}/{:.1f} "
      "(planned for balanced routing), messages and partial sums {:.1f}/{:.1f}",
      planned_memory.weights * 1e-6, memory.weights * 1e-6,
      (planned_memory.gradients + planned_memory.gradient_sum) * 1e-6,
      (memory.gradients + memory.gradient_sum) * 1e-6, planned_memory.optimizer * 1e-6,
      memory.optimizer * 1e-6, planned_memory.activations() * 1e-6, memory.activations() * 1e-6,
      (planned_memory.buffers + planned_memory.partial_sums) * 1e-6,
      (memory.buffers + memory.partial_sums) * 1e-6);
  if (device.num_allocations > 0) {
    text += fmt::format(
        "\nGPU memory of rank 0, MB: {:.1f} planned, {:.1f} "
        "allocated at most; allocations after the first step: {}",
        planned_memory.total() * 1e-6, device.peak * 1e-6, device.num_allocations - first_allocations);
    const std::int64_t used = card.total - card.free, beside = used - device.in_use;
    text += fmt::format(
        "\nGPU of rank 0 by cudaMemGetInfo, MB: {:.1f} in use of {:.1f}; {:.1f} of it beside what this rank "
        "allocated (CUDA context, NCCL, other processes); the most was {:.3f} x plan",
        used * 1e-6, card.total * 1e-6, beside * 1e-6,
        static_cast<double>(device.peak + beside) / static_cast<double>(planned_memory.total()));
  }
  return text;
}

void reserve_step_memory(model::Decoder& decoder, const PlanInput& input, int rank) {
  const MemoryPlan memory = plan_reserved_memory(input, rank);
  decoder.reserve_memory({.saved = memory.saved,
                          .scratch = memory.scratch,
                          .to_experts = memory.to_experts,
                          .from_experts = memory.from_experts});
}

}  // namespace nmoe::train

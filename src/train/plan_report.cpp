// The text of `neuronmoe plan`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "neuronmoe/model/parameter_count.hpp"
#include "neuronmoe/train/plan_time.hpp"
#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

std::string bytes_text(double n) {
  if (n >= 1e9) return fmt::format("{:.2f} GB", n / 1e9);
  return n >= 1e6 ? fmt::format("{:.2f} MB", n / 1e6) : fmt::format("{:.1f} KB", n / 1e3);
}
std::string bytes_text(std::int64_t n) {
  return bytes_text(static_cast<double>(n));
}
std::string count_text(std::int64_t n) {
  return n >= 1'000'000'000 ? fmt::format("{:.4f} G", static_cast<double>(n) / 1e9)
                            : fmt::format("{:.4f} M", static_cast<double>(n) / 1e6);
}

std::string parameters_text(const PlanInput& input) {
  const model::ParameterCount n = model::count_parameters(input.model, trainables_of(input.kind));
  return fmt::format(
      "parameters (exact): {} in all, {} active at top-{}, {} in new experts, {} train; "
      "{} experts in {} layers, {} of them MoE\n",
      count_text(n.total()), count_text(n.active), input.model.top_k, count_text(n.in_new_experts),
      count_text(n.trainable), n.experts, input.model.num_layers, n.moe_layers);
}

std::string placement_text(const PlanInput& input) {
  const int size = input.config.expert_parallel_size;
  if (input.model.num_moe_layers() == 0) return "";
  const std::string text = "new experts are placed by " + input.placed_by.to_string();
  if (!input.placed_by || size == 1) return text + "\n";
  const auto balance = [&](const model::ExpertTokens& measured) {
    const model::ExpertPlacement placement(input.model.num_experts, size, input.model.top_k,
                                           input.config.expert_placement, measured);
    return model::balance_of(placement, size, input.placed_by.counts);
  };
  const model::PlacementBalance now = balance(input.placed_by.counts), expected = balance({});
  return fmt::format(
      "{}: of {} ranks the busiest computes {:.3f} x the mean of their tokens and the fullest holds {:.3f} x "
      "the mean of their bytes (placed by expected tokens {:.3f} x and {:.3f} x)\n",
      text, size, now.tokens, now.bytes, expected.tokens, expected.bytes);
}

std::string work_text(const PlanInput& input) {
  PlanInput one = input;  // one rank sees all tokens
  one.num_ranks = 1;
  one.config.expert_parallel_size = 1;
  const RankPlan plan = plan_counts(one, 0, balanced_routing(one));
  const double tokens = static_cast<double>(one.config.global_batch_size * one.config.seq_length);
  double forward = 0, backward = 0;
  for (const SegmentCounts& s : plan.segments) {
    forward += static_cast<double>(s.forward_flops);
    backward += static_cast<double>(s.backward_flops);
  }
  const double total = tokens * static_cast<double>(input.config.steps);
  return fmt::format(
      "work (exact for balanced routing): forward {:.4f} GF/token, backward {:.4f}, "
      "together {:.4f}; lm-head {:.0f} % of it; {:.3e} tokens in {} steps, {:.3e} FLOP\n",
      forward / tokens / 1e9, backward / tokens / 1e9, (forward + backward) / tokens / 1e9,
      100 * static_cast<double>(plan.segments[0].forward_flops + plan.segments[0].backward_flops) /
          (forward + backward),
      total, input.config.steps, (forward + backward) * static_cast<double>(input.config.steps));
}

std::string memory_text(const PlanInput& input, const MachineConfig& machine) {
  MemoryPlan m;
  std::int64_t reserved = 0;
  for (int r = 0; r < input.config.expert_parallel_size; ++r) {
    const MemoryPlan of_rank = plan_memory(input, r);
    if (of_rank.total() > m.total()) m = of_rank;
    reserved = std::max(reserved, plan_reserved_memory(input, r).total());
  }
  std::int64_t saved = 0;
  for (const std::int64_t bytes : plan_saved_bytes(input, 0)) saved += bytes;
  const LibraryMemory libraries = library_memory(input, machine);
  const std::int64_t needed = reserved + libraries.total();
  std::string text = fmt::format(
      "memory of a rank: weights {}, gradient leaves of {} {}, gradient sum {}, master "
      "and moments {}, activations kept {} ({}/token in layers), scratch {}, rows to "
      "and from experts of other ranks {}, partial sums {}, message buffers {}: {} "
      "with balanced routing, {} with room for any on one rank, of {:.0f} GB{}\n",
      bytes_text(m.weights),
      PlanShape(input, 0).reduce.once_per_step ? "all segments" : "the largest segment",
      bytes_text(m.gradients), bytes_text(m.gradient_sum), bytes_text(m.optimizer), bytes_text(m.saved),
      bytes_text(static_cast<double>(saved) / static_cast<double>(input.tokens_per_micro_batch())),
      bytes_text(m.scratch), bytes_text(m.to_experts + m.from_experts), bytes_text(m.partial_sums),
      bytes_text(m.buffers), bytes_text(m.total()), bytes_text(reserved), machine.memory_gb,
      static_cast<double>(needed) <= machine.memory_gb * 1e9
          ? ""
          : ": DOES NOT FIT; lower train.micro_batch_size");
  if (libraries.total() > 0) {
    text += fmt::format(
        "beside it on a GPU (estimated): CUDA context {}, workspace of matrix products {}, NCCL {}: {}\n",
        bytes_text(libraries.context), bytes_text(libraries.workspace), bytes_text(libraries.messages),
        bytes_text(libraries.total()));
  }
  return text;
}

std::string bytes_of_step_text(const PlanInput& input) {
  const RankPlan plan = plan_counts(input, 0, balanced_routing(input));
  std::int64_t reduce = 0, gather = 0, exchange = 0;
  for (const SegmentCounts& s : plan.segments) {
    reduce += s.reduce_bytes;
    gather += s.gather_bytes;
    exchange += s.exchange_bytes;
  }
  return fmt::format(
      "sent by rank 0 in a step (exact): gradients to their owners {}, "
      "weights to everybody {}, tokens to experts and back {}, the rest {}\n",
      bytes_text(reduce), bytes_text(gather), bytes_text(exchange), bytes_text(plan.all_reduce_bytes));
}

std::string time_text(const PlanInput& input, const MachineConfig& machine) {
  const TimePlan t = plan_time(input, machine, ReduceRoute::direct);
  const double hours = t.step_s() * static_cast<double>(input.config.steps) * input.num_ranks / 3600;
  return fmt::format(
      "time of a step (modelled): compute {:.1f} ms at {:.3g} TFLOP/s x {:.0f} %, "
      "gradients {:.1f} ms and weights {:.1f} ms on the wire of which {:.1f} ms are not "
      "hidden, tokens to experts {:.1f} ms: {:.1f} ms; {} steps are {:.2f} GPU-hours\n",
      t.compute_s * 1e3, machine.gemm_tflops, 100 * machine.gemm_efficiency, t.reduce_s * 1e3,
      t.gather_s * 1e3, t.exposed_s * 1e3, t.exchange_s * 1e3, t.step_s() * 1e3, input.config.steps, hours);
}

std::string layouts_text(const PlanInput& input, const MachineConfig& machine) {
  std::string text =
      "layouts (modelled; weak: one micro-batch per rank; strong: the configured "
      "global batch; ring: a library's reduce-scatter, direct: the deterministic "
      "mode's; efficiency = compute / step, in brackets without overlap)\n"
      "nodes  ranks  use                           step ms   weak "
      "ring        weak direct      strong ring      memory GB\n";
  for (int nodes = 1; nodes <= (machine.network_gbs > 0 ? 64 : 1); nodes *= 2) {
    const auto weak = plan_layouts(input, machine, nodes, false, ReduceRoute::ring);
    const LayoutChoice& best = weak.front();
    const auto same = [&](const std::vector<LayoutChoice>& choices) -> std::string {
      for (const LayoutChoice& c : choices) {
        if (c.expert_parallel_size == best.expert_parallel_size)
          return fmt::format("{:.1f} ({:.1f}) %", 100 * c.time.efficiency(),
                             100 * c.time.serial_efficiency());
      }
      return "-";
    };
    const std::string use = best.expert_parallel_size == 1
                                ? "data parallel, ZeRO-2"
                                : fmt::format("experts over {} ranks", best.expert_parallel_size);
    text += fmt::format("{:>5}  {:>5}  {:<28}  {:>7.1f}   {:<15}  {:<15}  {:<15}  {:.1f}{}\n", nodes,
                        nodes * machine.gpus_per_node, use, best.time.step_s() * 1e3, same(weak),
                        same(plan_layouts(input, machine, nodes, false, ReduceRoute::direct)),
                        same(plan_layouts(input, machine, nodes, true, ReduceRoute::ring)),
                        static_cast<double>(best.memory.total()) / 1e9, best.fits ? "" : " DOES NOT FIT");
  }
  return text;
}

}  // namespace

std::string plan_report(const PlanInput& input, const MachineConfig& machine) {
  std::string text = fmt::format(
      "plan: {} ranks on {} ({} nodes x {}), expert_parallel_size {}, ZeRO {}, {}\n", input.num_ranks,
      machine.name, machine.nodes, machine.gpus_per_node, input.config.expert_parallel_size,
      input.config.zero ? "on" : "off", name_of(input.config.dtype));
  text += parameters_text(input) + placement_text(input) + work_text(input) + memory_text(input, machine) +
          bytes_of_step_text(input) + time_text(input, machine);
  if (const auto tokens = crossover_tokens(input)) {
    const double now =
        static_cast<double>(input.config.global_batch_size * input.config.seq_length) / input.num_ranks;
    text += fmt::format(
        "bytes of sharded experts = bytes of spread experts at {:.0f} tokens per rank and step; with the "
        "{:.0f} of this batch, fewer bytes if experts are {}\n",
        *tokens, now,
        now > *tokens ? "sharded (expert_parallel_size 1)" : "spread (expert_parallel_size > 1)");
  }
  return text + layouts_text(input, machine);
}

}  // namespace nmoe::train

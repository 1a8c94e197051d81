// Modeled time of a step and of layouts on a machine, from the counts of a plan.
#include "neuronmoe/train/plan_time.hpp"

#include <algorithm>

#include "neuronmoe/ops/gpu_libraries.hpp"
#include "neuronmoe/train/idle_ranks.hpp"
#include "neuronmoe/train/reduce_options.hpp"
#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

constexpr double gb = 1e9;

/// Bandwidths of one rank towards the groups of a layout, bytes/s.
struct Rates {
  double flops, exchange, reduce, gather, expert_reduce, expert_gather;
  double world_latency, expert_latency;  // of one collective, seconds
};

Rates rates_of(const PlanInput& input, const MachineConfig& m, ReduceRoute route) {
  const int ep = input.config.expert_parallel_size, ranks = input.num_ranks;
  Rates rates{};
  rates.flops = m.gemm_tflops * 1e12 * m.gemm_efficiency;
  const double link = m.link_gbs * gb, network = m.network_gbs * gb;
  const bool one_node = ranks <= m.gpus_per_node || m.network_gbs == 0;  // there is no other node
  // A ring over whole nodes uses the network ports of all their GPUs; expert-data-parallel rings of the
  // positions of an expert-parallel group share them.
  const double ring = one_node ? link : network * m.gpus_per_node;
  const double expert_ring = one_node ? link : network * m.gpus_per_node / std::min(ep, m.gpus_per_node);
  const double direct = one_node ? link : network;
  rates.exchange = one_node || ep <= m.gpus_per_node ? link : network;
  rates.reduce = route == ReduceRoute::ring ? ring : direct;
  rates.expert_reduce = route == ReduceRoute::ring ? expert_ring : direct;
  rates.gather = ring;
  rates.expert_gather = expert_ring;
  rates.world_latency = ranks * m.latency_us * 1e-6;
  rates.expert_latency = ranks / ep * m.latency_us * 1e-6;
  return rates;
}

double wire_seconds(std::int64_t all, std::int64_t experts, double world_rate, double expert_rate,
                    const Rates& rates) {
  const std::int64_t replicated = all - experts;
  double seconds = static_cast<double>(replicated) / world_rate + static_cast<double>(experts) / expert_rate;
  if (experts > 0) {
    seconds += rates.expert_latency;
  } else if (replicated > 0) {
    seconds += rates.world_latency;
  }
  return seconds;
}

/// Reduction behind backward and gather before forward, segment by segment, on a link that does one thing at
/// a time.
TimePlan time_of(const RankPlan& plan, std::int64_t micro_steps, std::int64_t reductions,
                 const Rates& rates) {
  TimePlan time;
  const double share = 1.0 / static_cast<double>(micro_steps);
  double now = 0, link = 0;  // of one step that begins with the gather of the last update
  std::vector<double> arrives(plan.segments.size(), 0.0);
  for (std::size_t s = plan.segments.size(); s-- > 0;) {
    const SegmentCounts& segment = plan.segments[s];
    const double seconds = wire_seconds(segment.gather_bytes, segment.expert_gather_bytes, rates.gather,
                                        rates.expert_gather, rates);
    time.gather_s += seconds;
    arrives[s] = link += seconds;
  }
  for (std::int64_t micro_step = 0; micro_step < micro_steps; ++micro_step) {
    for (std::size_t s = plan.segments.size(); s-- > 0;) {
      now = std::max(now, arrives[s]) +
            static_cast<double>(plan.segments[s].forward_flops) * share / rates.flops;
    }
    for (const SegmentCounts& segment : plan.segments) {
      now += static_cast<double>(segment.backward_flops) * share / rates.flops;
      if (micro_step < micro_steps - reductions) continue;
      const double seconds =
          wire_seconds(segment.reduce_bytes / reductions, segment.expert_reduce_bytes / reductions,
                       rates.reduce, rates.expert_reduce, rates);
      if (seconds > 0) link = std::max(link, now) + seconds;
      time.reduce_s += seconds;
    }
  }
  time.compute_s = static_cast<double>(plan.flops()) / rates.flops;
  for (const SegmentCounts& segment : plan.segments)
    time.exchange_s += static_cast<double>(segment.exchange_bytes) / rates.exchange;
  time.exposed_s = std::max(0.0, std::max(now, link) - time.compute_s);  // not less by rounding
  return time;
}

}  // namespace

LibraryMemory library_memory(const PlanInput& input, const MachineConfig& machine) {
  LibraryMemory memory;
  if (machine.gpu_context_mb == 0.0) return memory;
  memory.context = static_cast<std::int64_t>(machine.gpu_context_mb * 1e6);
  memory.workspace = ops::gemm_workspace_bytes;
  // A buffer of 10 MiB to receive in and one of 2 MiB to send from for each channel and peer, as counted in
  // NVIDIA/nccl issue 1685; peers of other nodes share theirs.
  constexpr std::int64_t channel_bytes = std::int64_t{12} << 20;
  const int expert_parallel = input.config.expert_parallel_size;
  for (const int size : {input.num_ranks, expert_parallel, input.num_ranks / expert_parallel}) {
    const int peers = std::min(size, machine.gpus_per_node) - 1;
    memory.messages += channel_bytes * machine.nccl_channels * peers;
  }
  return memory;
}

TimePlan plan_time(const PlanInput& input, const MachineConfig& machine, ReduceRoute route) {
  const Rates rates = rates_of(input, machine, route);
  const RoutingLoad routing = balanced_routing(input);
  const std::int64_t micro_steps = comm::num_micro_steps(input.num_micro_batches(), input.num_ranks);
  TimePlan slowest;
  for (int r = 0; r < input.config.expert_parallel_size; ++r) {  // every group is like the first
    const TimePlan time = time_of(plan_counts(input, r, routing), micro_steps, num_reductions(input), rates);
    if (time.step_s() > slowest.step_s()) slowest = time;
  }
  return slowest;
}

namespace {

/// Larger groups are not tried: a plan of a machine with many GPUs in a node would take minutes.
constexpr int most_expert_parallel = 16;

/// Divisors of the global batch up to train.micro_batch_size that leave the fewest ranks idle, largest first.
std::vector<std::int64_t> micro_batch_sizes(const TrainConfig& config, int num_ranks) {
  std::vector<std::int64_t> sizes;
  double best = 0;
  TrainConfig c = config;
  for (c.micro_batch_size = config.micro_batch_size; c.micro_batch_size >= 1; --c.micro_batch_size) {
    if (c.global_batch_size % c.micro_batch_size != 0) continue;
    const double share = rank_use(c, num_ranks).share;
    if (share > best) sizes.clear();
    if (share >= best) sizes.push_back(c.micro_batch_size);
    best = std::max(best, share);
  }
  return sizes;
}

}  // namespace

std::int64_t needed_bytes(const PlanInput& input, const MachineConfig& machine) {
  std::int64_t reserved = 0;
  for (int r = 0; r < input.config.expert_parallel_size; ++r)
    reserved = std::max(reserved, plan_reserved_memory(input, r).total());
  return reserved + library_memory(input, machine).total();
}

MemoryPlan fullest_memory(const PlanInput& input) {
  MemoryPlan fullest;
  for (int r = 0; r < input.config.expert_parallel_size; ++r) {
    const MemoryPlan memory = plan_memory(input, r);
    if (memory.total() > fullest.total()) fullest = memory;
  }
  return fullest;
}

std::vector<LayoutChoice> plan_layouts(PlanInput input, const MachineConfig& machine, int nodes, bool strong,
                                       ReduceRoute route) {
  std::vector<LayoutChoice> choices;
  input.num_ranks = nodes * machine.gpus_per_node;
  TrainConfig& c = input.config;
  if (!strong) c.global_batch_size = c.micro_batch_size * input.num_ranks;
  const std::vector<std::int64_t> sizes = micro_batch_sizes(c, input.num_ranks);
  for (int ep = 1; ep <= std::min(machine.gpus_per_node, most_expert_parallel); ++ep) {
    if (machine.gpus_per_node % ep != 0 || (ep > 1 && input.model.num_moe_layers() == 0)) continue;
    LayoutChoice choice;
    choice.expert_parallel_size = c.expert_parallel_size = ep;
    for (const std::int64_t size : sizes) {
      choice.micro_batch_size = c.micro_batch_size = size;
      choice.needed_bytes = needed_bytes(input, machine);
      choice.fits = static_cast<double>(choice.needed_bytes) <= machine.memory_gb * gb;
      if (choice.fits) break;
    }
    choice.time = plan_time(input, machine, route);
    choice.memory = fullest_memory(input);
    choices.push_back(choice);
  }
  std::stable_sort(choices.begin(), choices.end(), [](const LayoutChoice& a, const LayoutChoice& b) {
    return a.fits != b.fits ? a.fits : a.time.step_s() < b.time.step_s();
  });
  return choices;
}

std::optional<double> crossover_tokens(const PlanInput& input) {
  const model::FreezePlan freeze = model::make_freeze_plan(input.model, trainables_of(input.kind));
  std::int64_t in_trained_experts = 0;
  for (const model::Parameter& p : model::list_parameters(input.model, freeze))
    if (p.is_new_expert() && p.trainable) in_trained_experts += p.shape.num_elements();
  if (in_trained_experts == 0 || input.kind != RunKind::stage1) return std::nullopt;
  // Bytes per rank without the factor (N − 1)/N, which both sides have.
  const ReduceOptions options = reduce_options(input.config, input.num_ranks);
  const std::int64_t element = size_of(input.config.dtype);
  const double sharded =
      static_cast<double>(in_trained_experts) * static_cast<double>(size_of(options.wire_dtype) + element);
  double per_token = 0;
  for (int l = 0; l < input.model.num_layers; ++l) {
    const int e = input.model.num_experts[static_cast<std::size_t>(l)];
    if (e == 1) continue;
    const double slots = static_cast<double>(std::min(e, input.model.top_k)) * (e - 1) / e;
    const model::LayerPlan& layer = freeze.layers[static_cast<std::size_t>(l)];
    const int passes = 2 + (layer.any_expert_gradient() ? 1 : 0) + (layer.mlp_input ? 1 : 0);
    per_token += slots * passes * static_cast<double>(input.model.hidden_size * element);
  }
  return sharded / per_token;
}

}  // namespace nmoe::train

// The numbers of `neuronmoe plan`.
#include "neuronmoe/train/plan_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "neuronmoe/model/parameter_count.hpp"
#include "plan_quantity.hpp"
#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

constexpr double gb = 1e9, ms = 1e3, hour = 3600.0;

/// Collects the quantities of one table; times rest on the goal or on a measured rate.
class Quantities {
 public:
  explicit Quantities(Basis times) : times_(times) {}
  void section(const std::string& name) { section_ = name; }
  template <typename T>
  requires std::is_arithmetic_v<T>
  void add(const std::string& name, T number, const std::string& unit, Basis basis = Basis::exact,
           const std::string& note = "") {
    const auto value = static_cast<double>(number);
    list.push_back({section_, name, unit, basis, {value, value, value}, false, note});
  }
  void bytes(const std::string& name, std::int64_t value, Basis basis = Basis::exact,
             const std::string& note = "") {
    add(name, static_cast<double>(value) / gb, "GB", basis, note);
  }
  void range(const std::string& name, const Estimate& estimate, const std::string& unit, Basis basis,
             const std::string& note = "") {
    list.push_back({section_, name, unit, basis, estimate, true, note});
  }
  void time(const std::string& name, const Estimate& estimate, const std::string& unit,
            const std::string& note = "") {
    range(name, estimate, unit, times_, note);
  }
  std::vector<Quantity> list;

 private:
  Basis times_;
  std::string section_;
};

void add_parameters(const PlanInput& input, Quantities& q) {
  const model::ParameterCount n = model::count_parameters(input.model, trainables_of(input.kind));
  q.section("model");
  q.add("parameters", n.total(), "");
  q.add("active parameters", n.active, "", Basis::exact, fmt::format("top-{}", input.model.top_k));
  q.add("parameters in new experts", n.in_new_experts, "");
  q.add("parameters that train", n.trainable, "");
  q.add("experts", n.experts, "", Basis::exact, "the base of every layer is one");
  q.add("layers", input.model.num_layers, "");
  q.add("MoE layers", n.moe_layers, "");
}

void add_work(const PlanInput& input, Quantities& q) {
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
  const double head = static_cast<double>(plan.segments[0].forward_flops + plan.segments[0].backward_flops);
  const std::string balanced = "balanced routing";
  q.section("work");
  q.add("steps", input.config.steps, "", Basis::given);
  q.add("tokens", tokens * static_cast<double>(input.config.steps), "");
  q.add("forward", forward / tokens / 1e9, "GFLOP/token", Basis::exact, balanced);
  q.add("backward", backward / tokens / 1e9, "GFLOP/token", Basis::exact, balanced);
  q.add("forward and backward", (forward + backward) / tokens / 1e9, "GFLOP/token", Basis::exact, balanced);
  q.add("lm-head", 100 * head / (forward + backward), "% of it", Basis::exact, balanced);
  q.add("all steps", (forward + backward) * static_cast<double>(input.config.steps), "FLOP", Basis::exact,
        balanced);
}

void add_memory(const PlanInput& input, const MachineConfig& machine, Quantities& q) {
  const MemoryPlan m = fullest_memory(input);
  const LibraryMemory libraries = library_memory(input, machine);
  const std::int64_t needed = needed_bytes(input, machine);
  q.section("memory of a rank");
  q.bytes("weights", m.weights);
  q.bytes("gradient leaves", m.gradients, Basis::exact,
          PlanShape(input, 0).reduce.once_per_step ? "of all segments" : "of the largest segment");
  q.bytes("gradient sum", m.gradient_sum);
  q.bytes("master weights and moments", m.optimizer);
  q.bytes("activations kept for backward", m.saved, Basis::exact, "balanced routing");
  q.bytes("scratch", m.scratch, Basis::exact, "balanced routing");
  q.bytes("rows to and from experts of other ranks", m.to_experts + m.from_experts, Basis::exact,
          "balanced routing");
  q.bytes("partial sums", m.partial_sums);
  q.bytes("message buffers", m.buffers);
  q.bytes("together", m.total(), Basis::exact, "balanced routing");
  q.bytes("taken at the start", needed - libraries.total(), Basis::exact, "room for any routing on one rank");
  q.bytes("CUDA context", libraries.context, Basis::modeled);
  q.bytes("workspace of matrix products", libraries.workspace, Basis::modeled);
  q.bytes("NCCL", libraries.messages, Basis::modeled);
  const bool fits = static_cast<double>(needed) <= machine.memory_gb * gb;
  q.bytes("needed", needed, Basis::modeled, fits ? "fits" : "DOES NOT FIT; lower train.micro_batch_size");
  q.add("there is", machine.memory_gb, "GB", Basis::given);
}

void add_bytes(const PlanInput& input, Quantities& q) {
  const RankPlan plan = plan_counts(input, 0, balanced_routing(input));
  std::int64_t reduce = 0, gather = 0, exchange = 0;
  for (const SegmentCounts& s : plan.segments) {
    reduce += s.reduce_bytes;
    gather += s.gather_bytes;
    exchange += s.exchange_bytes;
  }
  q.section("sent by rank 0 in a step");
  q.bytes("gradients to their owners", reduce, Basis::exact,
          fmt::format("as {}", name_of(input.config.gradient_dtype)));
  q.bytes("weights to everybody", gather);
  q.bytes("tokens to experts and back", exchange, Basis::exact, "balanced routing");
  q.bytes("the rest", plan.all_reduce_bytes);
}

void add_time(const PlanInput& input, const MachineConfig& machine, const ComputeRate& rate,
              const RunCost& cost, Quantities& q) {
  const TimePlan& t = cost.time;
  const auto use = rank_use(input.config, input.num_ranks);
  q.section("time of a step");
  q.add("idle ranks", use.idle, "", Basis::exact,
        fmt::format("{} micro-batches on {} ranks, {} micro-step(s)", use.num_micro_batches, input.num_ranks,
                    use.turns));
  q.add("GEMM rate", machine.gemm_tflops, "TFLOP/s per rank", Basis::given, "machine.gemm_tflops");
  q.range("share of it that a step reaches", {100 * rate.slow, 100 * rate.value, 100 * rate.fast}, "%",
          rate.measured ? Basis::measured : Basis::goal);
  const double compute = t.compute_s * rate.value * ms;
  q.time("compute", {compute / rate.fast, compute / rate.value, compute / rate.slow}, "ms");
  q.add("gradients on the wire", t.reduce_s * ms, "ms", Basis::modeled);
  q.add("weights on the wire", t.gather_s * ms, "ms", Basis::modeled);
  q.add("of these not hidden", t.exposed_s * ms, "ms", Basis::modeled, "behind compute at the middle rate");
  q.add("tokens to experts and back", t.exchange_s * ms, "ms", Basis::modeled, "taken as never hidden");
  q.time("step", cost.step_s * ms, "ms", "high: nothing is hidden");
}

void add_run(const PlanInput& input, const MachineConfig& machine, const RunCost& cost,
             const PlanConfig& plan, Quantities& q) {
  const double nodes = static_cast<double>(input.num_ranks) / machine.gpus_per_node;
  q.section("the run");
  q.time("tokens/s", cost.tokens_per_s, "");
  q.time("tokens/s per GPU", cost.tokens_per_s * (1.0 / input.num_ranks), "");
  q.time("wall-clock", cost.run_s * (1 / hour), "h", "steps and saves");
  q.time("node-hours", cost.run_s * (nodes / hour), "");
  q.time("GPU-hours", cost.run_s * (input.num_ranks / hour), "");
  q.time("jobs", cost.jobs(plan.job_hours), fmt::format("of {:g} h", plan.job_hours));
  q.section("checkpoints");
  q.bytes("one checkpoint", cost.checkpoint_bytes, Basis::exact, "tensors; file headers are beside it");
  q.bytes("on the disk at most", cost.checkpoint_bytes * (input.config.keep_last + 1), Basis::exact,
          "train.keep_last and the one that is written");
  q.range("time of a save", cost.save_s, "s", Basis::modeled,
          fmt::format("{:g} GB/s per rank: machine.save_gbs", machine.save_gbs));
  q.add("saves", cost.num_saves, "", Basis::given,
        fmt::format("every {} steps: train.save_every", input.config.save_every));
  q.add("share of the run", 100 * cost.save_s.value * static_cast<double>(cost.num_saves) / cost.run_s.value,
        "%", Basis::modeled);
  q.add("time between failures of the job", cost.mtbf_s / hour, "h", Basis::modeled,
        fmt::format("{:g} GPU-hours / {} GPUs: machine.mtbf_gpu_hours", machine.mtbf_gpu_hours,
                    input.num_ranks));
  q.range("best interval", cost.save_interval_s * (1.0 / 60), "min", Basis::modeled,
          "sqrt(2 x time of a save x time between failures)");
  const auto interval_steps =
      static_cast<std::int64_t>(std::round(cost.save_interval_s.value / cost.step_s.value));
  q.add("that is train.save_every =", std::clamp(interval_steps, std::int64_t{1}, input.config.steps),
        "steps", Basis::modeled, "at the time limit of a job USR1 saves anyway");
  q.section("beside the run");
  q.time("analyze", cost.analysis_s, "s",
         fmt::format("forward of the base on {:g} tokens (plan.analysis_tokens)", plan.analysis_tokens));
  q.time("analyze, node-hours", cost.analysis_s * (nodes / hour), "");
  q.time("evaluate", cost.evaluation_s, "s",
         fmt::format("forward on {:g} tokens (plan.evaluation_tokens)", plan.evaluation_tokens));
  q.time("evaluate, node-hours", cost.evaluation_s * (nodes / hour), "");
}

/// @param smallest tokens per second and GPU of the first row
NodeRow node_row(const NodePlan& of_nodes, const PlanConfig& plan, Scaling scaling, double smallest,
                 Basis times) {
  const PlanInput& input = of_nodes.input;
  const RunCost& cost = of_nodes.cost;
  Quantities q(times);
  q.section("nodes");
  q.add("GPUs", input.num_ranks, "", Basis::given);
  q.add("global batch", input.config.global_batch_size, "", Basis::given);
  q.add("micro-batch", input.config.micro_batch_size, "", Basis::given);
  q.add("expert_parallel_size", input.config.expert_parallel_size, "", Basis::given);
  q.add("idle GPUs", rank_use(input.config, input.num_ranks).idle, "");
  q.add("steps", input.config.steps, "", Basis::given);
  q.time("step", cost.step_s * ms, "ms");
  q.time("tokens/s", cost.tokens_per_s, "");
  q.time("efficiency", Estimate{1, 1, 1} * (100 * cost.tokens_per_s.value / input.num_ranks / smallest), "%");
  q.list.back().has_range = false;
  q.time("wall-clock", cost.run_s * (1 / hour), "h");
  q.time("node-hours", cost.run_s * (of_nodes.nodes / hour), "");
  q.time("GPU-hours", cost.run_s * (input.num_ranks / hour), "");
  q.time("jobs", cost.jobs(plan.job_hours), fmt::format("of {:g} h", plan.job_hours));
  q.range("save", cost.save_s, "s", Basis::modeled);
  q.bytes("memory", of_nodes.layout.needed_bytes, Basis::modeled);
  return {scaling, of_nodes.nodes, of_nodes.layout.fits, std::move(q.list)};
}

std::string placement_text(const PlanInput& input) {
  const int size = input.config.expert_parallel_size;
  const std::string text = "new experts are placed by " + input.placed_by.to_string();
  if (!input.placed_by || size == 1) return text;
  const auto balance = [&](const model::ExpertTokens& measured) {
    const model::ExpertPlacement placement(input.model.num_experts, size, input.model.top_k,
                                           input.config.expert_placement, measured);
    return model::balance_of(placement, size, input.placed_by.counts);
  };
  const model::PlacementBalance now = balance(input.placed_by.counts), expected = balance({});
  return fmt::format(
      "{}: of {} ranks the busiest computes {:.3f} x the mean of their tokens and the fullest holds {:.3f} x "
      "the mean of their bytes (placed by expected tokens {:.3f} x and {:.3f} x)",
      text, size, now.tokens, now.bytes, expected.tokens, expected.bytes);
}

std::string crossover_text(const PlanInput& input, double tokens) {
  const double now =
      static_cast<double>(input.config.global_batch_size * input.config.seq_length) / input.num_ranks;
  return fmt::format(
      "bytes of sharded experts = bytes of spread experts at {:.0f} tokens per rank and step; with the "
      "{:.0f} of this batch, fewer bytes if experts are {}",
      tokens, now, now > tokens ? "sharded (expert_parallel_size 1)" : "spread (expert_parallel_size > 1)");
}

std::string rate_text(const MachineConfig& machine, const ComputeRate& rate) {
  if (rate.measured)
    return fmt::format(
        "the rate of {} steps of {}, its exchange included: {:.4g} TFLOP/s per rank, {:.1f} % of GEMM (5 % "
        "of "
        "its steps were slower than {:.1f} %, 5 % faster than {:.1f} %)",
        rate.measured->num_steps, rate.measured->path, rate.measured->median / 1e12, 100 * rate.value,
        100 * rate.slow, 100 * rate.fast);
  return fmt::format(
      "{:.4g} % of GEMM is a goal, never measured on this machine ({}: {:g} TFLOP/s); low estimates take "
      "{:.3g} %, high ones {:.3g} %. After a run on it, --plan.calibrate RUN/metrics.jsonl takes its rate",
      100 * rate.value, machine.name, machine.gemm_tflops, 100 * rate.fast, 100 * rate.slow);
}

}  // namespace

std::string plan_report(const PlanInput& input, const MachineConfig& machine, const PlanConfig& plan) {
  const ComputeRate rate = compute_rate(machine, plan);
  const Basis times = rate.measured ? Basis::modeled : Basis::goal;
  const RunCost cost = run_cost(input, machine, rate, plan);
  PlanTables tables;
  tables.title = fmt::format(
      "plan: {} ranks on {} ({} nodes x {}), expert_parallel_size {}, ZeRO {}, {}, gradients travel as {}",
      input.num_ranks, machine.name, machine.nodes, machine.gpus_per_node, input.config.expert_parallel_size,
      input.config.zero ? "on" : "off", name_of(input.config.dtype), name_of(input.config.gradient_dtype));
  if (input.model.num_moe_layers() > 0) tables.notes.push_back(placement_text(input));
  if (const auto tokens = crossover_tokens(input)) tables.notes.push_back(crossover_text(input, *tokens));
  tables.rate = rate_text(machine, rate);
  Quantities run(times);
  add_parameters(input, run);
  add_work(input, run);
  add_memory(input, machine, run);
  add_bytes(input, run);
  add_time(input, machine, rate, cost, run);
  add_run(input, machine, cost, plan, run);
  tables.run = std::move(run.list);
  for (const Scaling scaling : {Scaling::strong, Scaling::weak}) {
    double smallest = 0;
    for (const NodePlan& of_nodes : plan_nodes(input, machine, rate, plan, scaling)) {
      if (smallest == 0) smallest = of_nodes.cost.tokens_per_s.value / of_nodes.input.num_ranks;
      tables.nodes.push_back(node_row(of_nodes, plan, scaling, smallest, times));
    }
  }
  switch (plan.format) {
    case PlanFormat::csv:
      return to_csv(tables);
    case PlanFormat::json:
      return to_json(tables);
    case PlanFormat::table:
      break;
  }
  return to_table(tables);
}

}  // namespace nmoe::train

#pragma once
// What a training step costs, from configuration alone: floating-point operations, bytes on the wire and
// memory of every rank, by integer formulas that follow the freeze plan, the placement and the cut of the
// optimizer. Trainer reports them beside what it counted; `neuronmoe plan` turns them into time on a machine
// (plan_time.hpp).
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "neuronmoe/comm/layout.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/freeze_plan.hpp"
#include "neuronmoe/train/config.hpp"
#include "neuronmoe/train/expert_tokens.hpp"
#include "neuronmoe/train/run_kind.hpp"

namespace nmoe::train {

/// What is run, and on how many ranks.
struct PlanInput {
  model::ModelConfig model;
  RunKind kind = RunKind::stage1;
  TrainConfig config;
  int num_ranks = 1;
  MeasuredTokens placed_by = {};  ///< what owned experts are spread by
  std::int64_t num_micro_batches() const { return config.global_batch_size / config.micro_batch_size; }
  std::int64_t tokens_per_micro_batch() const { return config.micro_batch_size * config.seq_length; }
};

/// Routed slots [rank][layer][expert]: what decides how much the experts of a layer compute and send.
using RoutingLoad = std::vector<std::vector<std::vector<std::int64_t>>>;
/// Returns the load if every expert of a layer gets the same share of each micro-batch, what is left over
/// goes to the lower ids. Exact, whatever the router does, for layers with top_k >= E.   Of one step.
RoutingLoad balanced_routing(const PlanInput& input);

/// Work of one segment (FreezePlan: 0 lm-head and final norm, then layers from the top down, last the
/// embedding).
struct SegmentCounts {
  std::int64_t forward_flops = 0, backward_flops = 0;  ///< matrix products and attention, 2 per multiply-add
  std::int64_t reduce_bytes = 0, gather_bytes = 0;     ///< gradients to owners; updated weights from owners
  std::int64_t expert_reduce_bytes = 0,
               expert_gather_bytes = 0;  ///< of these, among expert-data-parallel ranks
  std::int64_t exchange_bytes = 0;       ///< tokens to and from experts of other ranks, with their counts
};

/// Bytes one rank needs at once: exact, but that routing decides about activations.
struct MemoryPlan {
  std::int64_t weights = 0;
  std::int64_t gradients = 0;     ///< leaves of the largest segment (of all with train.reduce_every = step)
  std::int64_t gradient_sum = 0;  ///< float32, what the rank keeps state for
  std::int64_t optimizer = 0;     ///< float32 master weights and both moments
  std::int64_t saved = 0;         ///< activations from forward to backward
  std::int64_t scratch = 0;       ///< inside a layer
  std::int64_t to_experts = 0;    ///< rows on their way to experts of other ranks
  std::int64_t from_experts = 0;  ///< and what comes of them
  std::int64_t partial_sums = 0;  ///< of gradients between micro-steps and while leaves are added
  std::int64_t buffers = 0;       ///< messages on their way
  std::int64_t activations() const { return saved + scratch + to_experts + from_experts; }
  std::int64_t total() const {
    return weights + gradients + gradient_sum + optimizer + activations() + partial_sums + buffers;
  }
};

/// One rank, `num_steps` steps.
struct RankPlan {
  std::vector<SegmentCounts> segments;
  std::int64_t all_reduce_bytes = 0;  ///< label counts, losses, gradient norm
  std::int64_t flops() const;
  /// Returns the bytes sent to other ranks, by the names of metrics.jsonl; operations without bytes are left
  /// out.
  std::map<std::string, std::int64_t> bytes() const;
};

/// Returns the counts of `rank` over `num_steps` steps, of which `num_updates` were not skipped; `routing` is
/// the sum over those steps. Exact: equal to what the run counts.
RankPlan plan_counts(const PlanInput& input, int rank, const RoutingLoad& routing, std::int64_t num_steps = 1,
                     std::int64_t num_updates = 1);

/// Returns the memory of `rank` with balanced routing (exact if every MoE layer has top_k >= E).
MemoryPlan plan_memory(const PlanInput& input, int rank);
/// Returns the same with the activation memory that a run reserves at its start (reserve_step_memory): room
/// for any routing on one rank, for ids, labels and masks, and for uneven cuts that round up to 64 bytes
/// each.
MemoryPlan plan_reserved_memory(const PlanInput& input, int rank);
/// Returns what each layer keeps of one micro-batch between forward and backward, bytes [L]; balanced
/// routing.
std::vector<std::int64_t> plan_saved_bytes(const PlanInput& input, int rank);

}  // namespace nmoe::train

// Floating-point operations and bytes of a step.
#include <algorithm>
#include <numeric>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/model/lm_head.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "neuronmoe/train/losses.hpp"
#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

/// Rows of experts from `first` on that this rank computes: its own for replicated ones, those of any rank of
/// its group for the experts it owns.
std::int64_t rows_computed(const PlanShape& shape, const RoutingLoad& routing, int layer, int first) {
  std::int64_t rows = 0;
  for (const int e : shape.placement.replicated_experts(layer)) {
    if (e < first) continue;
    rows += routing[static_cast<std::size_t>(shape.layout.rank())][static_cast<std::size_t>(layer)]
                   [static_cast<std::size_t>(e)];
  }
  for (const int e : shape.placement.experts_on(layer, shape.layout.expert_parallel_rank())) {
    if (e < first) continue;
    for (const int source : shape.group_ranks())
      rows += routing[static_cast<std::size_t>(source)][static_cast<std::size_t>(layer)]
                     [static_cast<std::size_t>(e)];
  }
  return rows;
}

/// Adds what one group of parameters sends of its segments.
void add_group_bytes(const PlanShape& shape, bool experts, std::int64_t num_steps, std::int64_t num_updates,
                     RankPlan& plan) {
  const ReduceOptions& options = shape.reduce;
  const PlanGroup group(shape, experts);
  std::int64_t nodes = 0;  // leaves (or their sum) this rank sends in a step
  for (const std::vector<int>& counts : group.counts)
    nodes += group.cut.nodes_of(counts[static_cast<std::size_t>(group.me)]);
  for (const ShardUnit& unit : group.cut.units()) {
    const std::int64_t own = unit.map.num_owned(group.me), others = unit.map.num_total() - own;
    SegmentCounts& segment = plan.segments[static_cast<std::size_t>(unit.segment)];
    const std::int64_t width = size_of(options.zero ? shape.dtype : DType::float32);
    const std::int64_t reduced = others * nodes * size_of(options.wire_dtype) * num_steps;
    const std::int64_t gathered = own * width * (group.size - 1) * num_updates;
    segment.reduce_bytes += reduced;
    segment.gather_bytes += gathered;
    segment.expert_reduce_bytes += experts ? reduced : 0;
    segment.expert_gather_bytes += experts ? gathered : 0;
  }
}

}  // namespace

RoutingLoad balanced_routing(const PlanInput& input) {
  RoutingLoad load;
  const std::int64_t M = input.num_micro_batches(), tokens = input.tokens_per_micro_batch();
  for (int r = 0; r < input.num_ranks; ++r) {
    const std::int64_t mine = (M - r + input.num_ranks - 1) / input.num_ranks;
    auto& layers = load.emplace_back();
    for (const int e : input.model.num_experts) {
      const std::int64_t slots = tokens * std::min(e, input.model.top_k);
      auto& experts = layers.emplace_back();
      for (int i = 0; i < e; ++i)
        experts.push_back(std::max<std::int64_t>(0, mine) * (slots / e + (i < slots % e ? 1 : 0)));
    }
  }
  return load;
}

RankPlan plan_counts(const PlanInput& input, int rank, const RoutingLoad& routing, std::int64_t num_steps,
                     std::int64_t num_updates) {
  const PlanShape shape(input, rank);
  const model::FreezePlan& freeze = shape.freeze;
  RankPlan plan;
  plan.segments.resize(static_cast<std::size_t>(freeze.num_segments()));
  const std::int64_t M = input.num_micro_batches(), R = input.num_ranks;
  const std::int64_t mine = std::max<std::int64_t>(0, (M - rank + R - 1) / R);
  const std::int64_t tokens = mine * input.tokens_per_micro_batch() * num_steps;
  const model::Flops head = model::lm_head_flops(input.model, tokens, freeze.head);
  plan.segments[0].forward_flops = head.forward;
  plan.segments[0].backward_flops = head.backward;
  const model::StepShape step = shape.step(tokens);
  for (int l = 0; l < input.model.num_layers; ++l) {
    SegmentCounts& segment = plan.segments[static_cast<std::size_t>(freeze.segment_of_layer(l))];
    const model::LayerPlan& layer = freeze.layers[static_cast<std::size_t>(l)];
    const model::LayerRouting of_layer{
        routing[static_cast<std::size_t>(rank)][static_cast<std::size_t>(l)],
        rows_computed(shape, routing, l, 1),
        layer.experts ? rows_computed(shape, routing, l, layer.first_trained_expert) : 0};
    const model::Flops flops = model::layer_flops(step, l, input.config.seq_length, of_layer);
    segment.forward_flops += flops.forward;
    segment.backward_flops += flops.backward;
    segment.exchange_bytes +=
        model::exchange_bytes(step, l, of_layer, comm::num_micro_steps(M, R) * num_steps);
  }
  for (const bool experts : {false, true}) add_group_bytes(shape, experts, num_steps, num_updates, plan);
  std::int64_t blocks = 0;
  for (const model::Parameter& p : shape.parameters) {
    if (p.trainable) blocks += (p.shape.num_elements() + ops::norm_block - 1) / ops::norm_block;
  }
  const int size = input.num_ranks;
  plan.all_reduce_bytes =
      num_steps * (comm::all_reduce_bytes_sent(DType::int64, 2, rank, size) +
                   comm::all_reduce_bytes_sent(DType::float64, LossSlots::count * M, rank, size) +
                   comm::all_reduce_bytes_sent(DType::float64, blocks, rank, size));
  if (global_balancing(input.kind, input.config)) {  // statistics of all micro-batches, and their tokens
    const std::int64_t statistics = model::num_balancing_statistics(input.model) + 1;
    plan.all_reduce_bytes += num_steps * comm::num_micro_steps(M, size) *
                             comm::all_reduce_bytes_sent(DType::float64, M * statistics, rank, size);
  }
  return plan;
}

std::int64_t RankPlan::flops() const {
  return std::accumulate(
      segments.begin(), segments.end(), std::int64_t{0},
      [](std::int64_t sum, const SegmentCounts& s) { return sum + s.forward_flops + s.backward_flops; });
}

std::map<std::string, std::int64_t> RankPlan::bytes() const {
  std::map<std::string, std::int64_t> bytes;
  const auto add = [&](comm::Operation operation, std::int64_t n) {
    if (n > 0) bytes[std::string(name_of(operation))] += n;
  };
  add(comm::Operation::all_reduce, all_reduce_bytes);
  for (const SegmentCounts& segment : segments) {
    add(comm::Operation::all_to_all_v, segment.reduce_bytes + segment.exchange_bytes);
    add(comm::Operation::all_gather_v, segment.gather_bytes);
  }
  return bytes;
}

}  // namespace nmoe::train

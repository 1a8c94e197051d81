// Floating-point operations and bytes of a step.
#include <algorithm>
#include <numeric>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "neuronmoe/train/plan.hpp"
#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

/// Products of feed_forward_backward in units of rows·D·F multiply-adds.
std::int64_t backward_products(bool input, bool weights) {
  const std::int64_t through_down = (input || weights) ? 1 : 0;
  return through_down + (weights ? 3 : 0) + (input ? 2 : 0);
}

struct Work {
  std::int64_t forward = 0, backward = 0;
};

Work attention_work(const PlanShape& shape, const model::LayerPlan& plan, std::int64_t tokens) {
  const std::int64_t projections = 2 * tokens * shape.attention_weights;
  // Causal: half of length² pairs per sequence, for scores and for values.
  const std::int64_t pairs = tokens * shape.input.config.seq_length * shape.query_width;
  Work work{projections + 2 * pairs, 0};
  if (plan.keeps_attention()) work.backward = projections * (plan.attention_weights ? 2 : 1) + 4 * pairs;
  return work;
}

/// Rows of new experts that this rank computes: its own for replicated ones, those of any rank of its group
/// for the experts it owns.
std::int64_t rows_computed(const PlanShape& shape, const RoutingLoad& routing, int layer) {
  std::int64_t rows = 0;
  for (const int e : shape.placement.replicated_experts(layer)) {
    rows += routing[static_cast<std::size_t>(shape.layout.rank())][static_cast<std::size_t>(layer)]
                   [static_cast<std::size_t>(e)];
  }
  for (const int e : shape.placement.experts_on(layer, shape.layout.expert_parallel_rank())) {
    for (const int source : shape.group_ranks())
      rows += routing[static_cast<std::size_t>(source)][static_cast<std::size_t>(layer)]
                     [static_cast<std::size_t>(e)];
  }
  return rows;
}

Work mlp_work(const PlanShape& shape, const model::LayerPlan& plan, const RoutingLoad& routing, int layer,
              std::int64_t tokens) {
  const std::int64_t product = 2 * shape.hidden * shape.width;  // of one row
  if (!shape.input.model.is_moe(layer)) {
    return {3 * tokens * product,
            tokens * product * backward_products(plan.mlp_input, plan.base_mlp_weights)};
  }
  const auto& own = routing[static_cast<std::size_t>(shape.layout.rank())][static_cast<std::size_t>(layer)];
  const std::int64_t received = rows_computed(shape, routing, layer);
  const std::int64_t router = 2 * tokens * shape.hidden * static_cast<std::int64_t>(own.size());
  Work work{router + 3 * product * (own[0] + received), 0};
  work.backward = product * (own[0] * backward_products(plan.mlp_input, plan.base_mlp_weights) +
                             received * backward_products(plan.mlp_input, plan.experts));
  work.backward += router * ((plan.router ? 1 : 0) + (plan.mlp_input ? 1 : 0));
  return work;
}

/// Tokens on their way to experts of other ranks and back, in both directions, and the counts before them.
std::int64_t exchange_bytes(const PlanShape& shape, const model::LayerPlan& plan, const RoutingLoad& routing,
                            int layer, std::int64_t num_passes) {
  if (!shape.input.model.is_moe(layer) || shape.layout.expert_parallel_size() == 1) return 0;
  const int me = shape.layout.rank(), my_place = shape.layout.expert_parallel_rank();
  std::int64_t counts = 0, out = 0;
  const int num_experts = shape.input.model.num_experts[static_cast<std::size_t>(layer)];
  for (int e = 1; e < num_experts; ++e) {
    if (shape.placement.holds(layer, e, my_place)) continue;
    ++counts;
    out +=
        routing[static_cast<std::size_t>(me)][static_cast<std::size_t>(layer)][static_cast<std::size_t>(e)];
  }
  std::int64_t own = 0;
  for (int e = 1; e < num_experts; ++e) {
    if (!shape.placement.holds(layer, e, my_place)) continue;
    own +=
        routing[static_cast<std::size_t>(me)][static_cast<std::size_t>(layer)][static_cast<std::size_t>(e)];
  }
  const std::int64_t back = rows_computed(shape, routing, layer) - own;
  std::int64_t rows = out + back;
  if (plan.experts || plan.base_mlp_weights || plan.mlp_input) rows += out;
  if (plan.mlp_input) rows += back;
  return rows * shape.hidden * shape.element + 8 * counts * num_passes;
}

/// Adds what one group of parameters sends of its segments.
void add_group_bytes(const PlanShape& shape, bool experts, std::int64_t num_steps, std::int64_t num_updates,
                     RankPlan& plan) {
  const ReduceOptions& options = shape.reduce;
  const int size = experts ? shape.layout.expert_data_parallel_size() : shape.layout.world_size();
  const int me = experts ? shape.layout.expert_data_parallel_rank() : shape.layout.rank();
  const int leaves = experts ? shape.layout.expert_parallel_size() : 1;
  const std::int64_t M = shape.input.num_micro_batches();
  std::int64_t nodes = 0;  // leaves (or their sum) this rank sends in a step
  for (std::int64_t s = 0; s < num_reductions(shape.input); ++s) {
    const int count = leaf_counts(shape.layout, experts, s, M)[static_cast<std::size_t>(me)];
    nodes += sends_sum_of_leaves(options, count, leaves) ? 1 : count;
  }
  for (const ShardUnit& unit : shape.units(experts)) {
    const std::int64_t own = unit.map.num_owned(me), others = unit.map.num_total() - own;
    SegmentCounts& segment = plan.segments[static_cast<std::size_t>(unit.segment)];
    const std::int64_t width = options.zero ? shape.element : 4;
    const std::int64_t reduced = others * nodes * size_of(options.wire_dtype) * num_steps;
    const std::int64_t gathered = own * width * (size - 1) * num_updates;
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
  const std::int64_t head = 2 * tokens * input.model.vocab_size * shape.hidden;
  plan.segments[0].forward_flops = head;
  plan.segments[0].backward_flops = head * (freeze.head ? 2 : 1);
  for (int l = 0; l < input.model.num_layers; ++l) {
    const model::LayerPlan& layer = freeze.layers[static_cast<std::size_t>(l)];
    SegmentCounts& segment = plan.segments[static_cast<std::size_t>(freeze.segment_of_layer(l))];
    for (const Work& work :
         {attention_work(shape, layer, tokens), mlp_work(shape, layer, routing, l, tokens)}) {
      segment.forward_flops += work.forward;
      segment.backward_flops += l >= freeze.lowest_layer ? work.backward : 0;
    }
    segment.exchange_bytes += exchange_bytes(shape, layer, routing, l,
                                             comm::num_micro_steps(M, shape.layout.world_size()) * num_steps);
  }
  for (const bool experts : {false, true}) add_group_bytes(shape, experts, num_steps, num_updates, plan);
  std::int64_t blocks = 0;
  for (const model::Parameter& p : shape.parameters) {
    if (p.trainable) blocks += (p.shape.num_elements() + ops::norm_block - 1) / ops::norm_block;
  }
  const int size = input.num_ranks;
  plan.all_reduce_bytes = num_steps * (comm::all_reduce_bytes_sent(DType::int64, 2, rank, size) +
                                       comm::all_reduce_bytes_sent(DType::float64, 4 * M, rank, size) +
                                       comm::all_reduce_bytes_sent(DType::float64, blocks, rank, size));
  if (input.kind == RunKind::stage1 &&
      input.config.lbl_scope == "global") {  // statistics of all micro-batches
    std::int64_t statistics = 1;
    for (const int e : input.model.num_experts) statistics += e > 1 ? 2 * e : 0;
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
    if (n > 0) bytes[std::string(comm::name_of(operation))] += n;
  };
  add(comm::Operation::all_reduce, all_reduce_bytes);
  for (const SegmentCounts& segment : segments) {
    add(comm::Operation::all_to_all_v, segment.reduce_bytes + segment.exchange_bytes);
    add(comm::Operation::all_gather_v, segment.gather_bytes);
  }
  return bytes;
}

ParameterCounts count_parameters(const PlanInput& input) {
  ParameterCounts counts;
  const model::FreezePlan freeze = model::make_freeze_plan(input.model, trainables_of(input.kind));
  for (const model::Parameter& p : model::list_parameters(input.model, freeze)) {
    const std::int64_t n = p.shape.num_elements();
    counts.total += n;
    if (p.trainable) counts.trainable += n;
    if (p.is_new_expert()) counts.new_experts += n;
    if (!p.is_new_expert() || p.expert < input.model.top_k) counts.active += n;
  }
  return counts;
}

}  // namespace nmoe::train

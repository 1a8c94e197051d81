// Memory of a rank. The two arenas of the decoder are followed take by take, so that the peaks are exact.
#include <algorithm>
#include <map>

#include "neuronmoe/model/lm_head.hpp"
#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

std::int64_t rounded(std::int64_t num_bytes) {
  return (std::max<std::int64_t>(1, num_bytes) + 63) / 64 * 64;
}

/// Counts what an Arena would hand out.
class ArenaCount {
 public:
  void take(std::int64_t elements, std::int64_t width) {
    in_use_ += rounded(elements * width);
    peak_ = std::max(peak_, in_use_);
  }
  std::int64_t in_use() const { return in_use_; }
  void rewind(std::int64_t in_use) { in_use_ = in_use; }
  std::int64_t peak() const { return peak_; }

 private:
  std::int64_t in_use_ = 0, peak_ = 0;
};

/// One micro-batch with balanced routing, as Decoder::forward_backward walks it.
class MemoryWalk {
 public:
  MemoryWalk(const PlanShape& shape, std::int64_t tokens, BaseLoad load)
      : s_(shape), load_(load), tokens_(tokens), w_(shape.element), flat_(tokens * shape.hidden) {}

  void run() {
    const model::ModelConfig& model = s_.input.model;
    saved.take(tokens_, 4);  // positions
    saved.take(flat_, w_);
    if (s_.freeze.lowest_layer > 0) saved.take(flat_, w_);
    for (int l = 0; l < model.num_layers; ++l) {
      const std::int64_t before = saved.in_use();
      const bool kept = l >= s_.freeze.lowest_layer;
      if (kept) saved.take(flat_, w_);
      layer_forward(l);
      kept_bytes.push_back(kept ? saved.in_use() - before : 0);
      if (!kept) saved.rewind(before);
    }
    saved.take(tokens_, 4);  // losses of tokens and layers
    saved.take(2 * model.num_layers, 8);
    scratch.take(flat_, w_);  // dx
    head();
    for (int l = model.num_layers - 1; l >= s_.freeze.lowest_layer; --l) layer_backward(l);
  }

  ArenaCount saved, scratch;
  std::int64_t to_experts = 0, from_experts = 0;  // SendBuffer
  std::vector<std::int64_t> kept_bytes;

 private:
  struct Rows {
    std::int64_t all = 0, base = 0, replicated = 0, received = 0;
    bool local = true;  // received rows are this rank's own
  };
  Rows rows_of(int layer) const {
    const int e = s_.input.model.num_experts[static_cast<std::size_t>(layer)];
    const std::int64_t slots = tokens_ * std::min(e, s_.input.model.top_k);
    // Ends of what routing can do: all tokens visit the base, or as few as the other experts leave.
    const std::int64_t base = load_ == BaseLoad::most ? std::min(tokens_, slots)
                              : load_ == BaseLoad::least
                                  ? std::max<std::int64_t>(0, slots - tokens_ * (e - 1))
                                  : -1;
    const auto share = [&](int expert) {
      if (base < 0) return slots / e + (expert < slots % e ? 1 : 0);
      const std::int64_t rest = slots - base;
      return expert == 0 ? base : rest / (e - 1) + (expert - 1 < rest % (e - 1) ? 1 : 0);
    };
    Rows rows{slots, share(0), 0, 0,
              s_.layout.expert_parallel_size() == 1 || !s_.placement.dispatches(layer)};
    for (const int expert : s_.placement.replicated_experts(layer)) rows.replicated += share(expert);
    for (const int expert : s_.placement.experts_on(layer, s_.layout.expert_parallel_rank()))
      rows.received += share(expert) * s_.layout.expert_parallel_size();
    return rows;
  }
  /// Rows for experts, or gradients of what they gave: they travel unless they stay on this rank.
  void take_outgoing(const Rows& rows) {
    if (rows.local) {
      scratch.take(rows.all * s_.hidden, w_);
    } else {
      to_experts = std::max(to_experts, rounded(rows.all * s_.hidden * w_));
    }
  }
  void take_wide(ArenaCount& arena, std::int64_t rows, int count) const {
    for (int i = 0; i < count; ++i) arena.take(rows * s_.width, w_);
  }
  /// The router's inputs widened to float32, if weights are narrower.
  void take_widened(std::int64_t elements) {
    if (w_ != 4) scratch.take(elements, 4);
  }

  void layer_forward(int l) {
    const model::LayerPlan& plan = s_.freeze.layers[static_cast<std::size_t>(l)];
    const std::int64_t scope = scratch.in_use();
    saved.take(flat_, w_);
    saved.take(tokens_, 4);
    ArenaCount& attention = plan.keeps_attention() ? saved : scratch;
    attention.take(tokens_, 4);
    attention.take(tokens_ * s_.query_width, w_);
    attention.take(tokens_ * s_.key_width, w_);
    attention.take(tokens_ * s_.key_width, w_);
    attention.take(tokens_ * s_.query_width, w_);
    attention.take(tokens_ * s_.input.model.num_attention_heads, 4);
    scratch.take(flat_, w_);
    scratch.rewind(scope);
    scratch.take(flat_, w_);
    if (s_.input.model.is_moe(l)) {
      moe_forward(l, plan);
    } else {
      take_wide(plan.keeps_base_mlp() ? saved : scratch, tokens_, 2);
      take_wide(scratch, tokens_, 1);
    }
    scratch.rewind(scope);
  }

  void moe_forward(int l, const model::LayerPlan& plan) {
    const std::int64_t e = s_.input.model.num_experts[static_cast<std::size_t>(l)];
    const std::int64_t k = std::min<std::int64_t>(e, s_.input.model.top_k);
    const Rows rows = rows_of(l);
    ArenaCount& kept = plan.router ? saved : scratch;
    kept.take(tokens_ * e, 4);
    kept.take(tokens_ * k, 4);
    kept.take(tokens_ * k, 4);
    const std::int64_t before_logits = scratch.in_use();
    scratch.take(tokens_ * e, 4);
    take_widened(flat_);
    take_widened(e * s_.hidden);
    scratch.rewind(before_logits);
    kept.take(tokens_ * k, 4);  // the dispatcher's order of rows, and where each slot went
    kept.take(tokens_ * k, 4);
    const std::int64_t before_counts = kept.in_use();
    kept.take(e, 8);
    kept.rewind(before_counts);
    kept.take(rows.all * s_.hidden, w_);
    take_outgoing(rows);
    if (!rows.local) {
      (plan.experts ? saved : scratch).take(rows.received * s_.hidden, w_);
      from_experts = std::max(from_experts, rounded(rows.received * s_.hidden * w_));
    }
    take_wide(plan.keeps_base_mlp() ? saved : scratch, rows.base, 2);
    take_wide(plan.keeps_experts() ? saved : scratch, rows.replicated, 2);
    const std::int64_t before = scratch.in_use();
    take_wide(scratch, std::max(rows.base, rows.replicated), 1);
    scratch.rewind(before);
    take_wide(plan.keeps_experts() ? saved : scratch, rows.received, 2);
    take_wide(scratch, rows.received, 1);
  }

  void head() {
    const std::int64_t scope = scratch.in_use();
    scratch.take(flat_, w_);
    scratch.take(tokens_, 4);
    scratch.take(flat_, w_);
    scratch.take(std::min(model::lm_head_chunk, tokens_) * s_.input.model.vocab_size, w_);
    scratch.rewind(scope);
  }

  void layer_backward(int l) {
    const model::LayerPlan& plan = s_.freeze.layers[static_cast<std::size_t>(l)];
    const bool moe = s_.input.model.is_moe(l);
    const std::int64_t scope = scratch.in_use();
    if (plan.mlp_input) scratch.take(flat_, w_);
    if (moe || plan.base_mlp_weights) scratch.take(flat_, w_);
    if (moe) {
      moe_backward(l, plan);
    } else if (plan.mlp_input || plan.base_mlp_weights) {
      take_wide(scratch, tokens_, 4);
    }
    scratch.rewind(scope);
    if (plan.keeps_attention()) {
      scratch.take(tokens_ * s_.query_width, w_);
      scratch.take(tokens_ * s_.query_width, w_);
      scratch.take(tokens_ * s_.key_width, w_);
      scratch.take(tokens_ * s_.key_width, w_);
      scratch.take(flat_, w_);
      if (plan.attention_weights) scratch.take(flat_, w_);
    }
    scratch.rewind(scope);
  }

  void moe_backward(int l, const model::LayerPlan& plan) {
    const std::int64_t e = s_.input.model.num_experts[static_cast<std::size_t>(l)];
    const std::int64_t k = std::min<std::int64_t>(e, s_.input.model.top_k);
    const Rows rows = rows_of(l);
    scratch.take(tokens_ * k, 4);
    const std::int64_t scope = scratch.in_use();
    take_outgoing(rows);
    if (plan.experts || plan.base_mlp_weights || plan.mlp_input) {
      if (plan.mlp_input) scratch.take(rows.all * s_.hidden, w_);
      if (plan.base_mlp_weights) scratch.take(rows.base * s_.hidden, w_);
      if (plan.experts) scratch.take(rows.replicated * s_.hidden, w_);
      if (plan.experts && rows.local) scratch.take(rows.received * s_.hidden, w_);
      if (!rows.local) scratch.take(rows.received * s_.hidden, w_);
      take_wide(scratch, std::max({rows.base, rows.replicated, rows.received}), 4);
    }
    scratch.rewind(scope);
    if (s_.input.kind != RunKind::pretrain) scratch.take(tokens_ * e, 4);  // gradients of auxiliary losses
    scratch.take(tokens_ * e, 4);
    if (plan.router) take_widened(flat_);
    if (plan.mlp_input) {
      take_widened(e * s_.hidden);
      take_widened(flat_);
    }
  }

  const PlanShape& s_;
  BaseLoad load_;
  std::int64_t tokens_, w_, flat_;
};

/// Gradient leaves: of all parameters if they are sums of a step, else of the largest segment, as
/// Decoder::share_gradients lays them out.
std::int64_t gradient_bytes(const PlanShape& shape) {
  std::map<int, std::int64_t> segments;
  std::int64_t own = 0, most = 0;
  for (const model::Parameter& p : shape.parameters) {
    if (!p.trainable || !shape.holds(p)) continue;
    const std::int64_t n =
        p.shape.num_elements() * (shape.is_owned_expert(p) ? shape.layout.expert_parallel_size() : 1);
    if (shape.reduce.once_per_step ||
        (shape.freeze.tied_head && p.last_writer == shape.freeze.embedding_segment())) {
      own += n;
    } else {
      most = std::max(most, segments[p.last_writer] += (n + 15) / 16 * 16);
    }
  }
  return 4 * (most + own);
}

}  // namespace

MemoryPlan plan_memory(const PlanInput& input, int rank, BaseLoad load) {
  const PlanShape shape(input, rank);
  MemoryPlan memory;
  for (const model::Parameter& p : shape.parameters) {
    if (shape.holds(p)) memory.weights += p.shape.num_elements() * shape.element;
  }
  memory.gradients = gradient_bytes(shape);
  for (const bool experts : {false, true}) {
    const int me = experts ? shape.layout.expert_data_parallel_rank() : shape.layout.rank();
    for (const ShardUnit& unit : shape.units(experts)) {
      const std::int64_t held = shape.reduce.zero ? unit.map.num_owned(me) : unit.map.num_total();
      memory.gradient_sum += 4 * held;
      memory.optimizer += 12 * held;
    }
  }
  const BufferPlan buffers = plan_buffers(shape);
  memory.partial_sums = buffers.partial_sums;
  memory.buffers = buffers.messages;
  MemoryWalk walk(shape, input.tokens_per_micro_batch(), load);
  walk.run();
  memory.saved = walk.saved.peak();
  memory.scratch = walk.scratch.peak();
  memory.to_experts = walk.to_experts;
  memory.from_experts = walk.from_experts;
  return memory;
}

MemoryPlan plan_reserved_memory(const PlanInput& input, int rank) {
  const MemoryPlan least = plan_memory(input, rank, BaseLoad::least);
  MemoryPlan memory = plan_memory(input, rank, BaseLoad::most);
  const std::int64_t beside = (std::int64_t{1} << 20) + 16 * input.tokens_per_micro_batch();
  memory.saved = std::max(least.saved, memory.saved) + beside;
  memory.scratch = std::max(least.scratch, memory.scratch) + beside;
  memory.to_experts = std::max(least.to_experts, memory.to_experts);
  memory.from_experts = std::max(least.from_experts, memory.from_experts);
  return memory;
}

std::vector<std::int64_t> plan_saved_bytes(const PlanInput& input, int rank) {
  const PlanShape shape(input, rank);
  MemoryWalk walk(shape, input.tokens_per_micro_batch(), BaseLoad::balanced);
  walk.run();
  return walk.kept_bytes;
}

}  // namespace nmoe::train

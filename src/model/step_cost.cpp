// What a micro-batch costs: the passes of Decoder, followed with memory that only counts.
#include "neuronmoe/model/step_cost.hpp"

#include <algorithm>

#include "decoder_buffers.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/model/lm_head.hpp"

namespace nmoe::model {

namespace {

/// Decoder::forward_backward without computing anything.
class CountedPass {
 public:
  CountedPass(const StepShape& shape, BaseLoad load, bool staged)
      : shape_(shape), frame_{shape.config, shape.num_tokens, shape.dtype}, load_(load), staged_(staged) {}

  StepCost run() {
    StepCost cost;
    const int num_layers = shape_.config.num_layers, lowest = shape_.freeze.lowest_layer;
    count<BatchBuffers>(frame_, BatchParts{true, true, staged_});
    count<StreamBuffer>(frame_);
    if (lowest > 0) count<StreamBuffer>(frame_);
    for (int l = 0; l < num_layers; ++l) {
      const CountedArena::Mark before = memory_.saved.mark();
      if (l >= lowest) count<StreamBuffer>(frame_);
      layer_forward(shape_.layer(l));
      cost.kept.push_back(l >= lowest ? memory_.saved.in_use_bytes() - before : 0);
      if (l < lowest && l + 1 < num_layers) memory_.saved.rewind(before);
    }
    if (shape_.global_balancing) {
      const ScratchScope scope(memory_.scratch);
      count<BalancingStatistics>(frame_);
    }
    count<LossBuffers>(frame_);
    {
      const ScratchScope scope(memory_.scratch);
      count<HeadScratch>(frame_);
      count<LmHeadScratch>(frame_.num_tokens, shape_.config.vocab_size, frame_.dtype);
    }
    for (int l = num_layers - 1; l >= lowest; --l) layer_backward(shape_.layer(l));
    cost.peak = memory_.peak_bytes();
    return cost;
  }

 private:
  template <typename Buffers, typename... Sizes>
  void count(const Sizes&... sizes) {
    static_cast<void>(take_buffers<Buffers>(memory_, sizes...));
  }

  DispatchedRows rows_of(int layer) const {
    const int e = shape_.config.num_experts[static_cast<std::size_t>(layer)];
    const std::int64_t slots = shape_.num_tokens * std::min(e, shape_.config.top_k);
    // Ends of what routing can do: all tokens visit the base, or as few as the other experts leave.
    const std::int64_t base = load_ == BaseLoad::most ? std::min(shape_.num_tokens, slots)
                              : load_ == BaseLoad::least
                                  ? std::max<std::int64_t>(0, slots - shape_.num_tokens * (e - 1))
                                  : -1;
    const auto share = [&](int expert) {
      if (base < 0) return slots / e + (expert < slots % e ? 1 : 0);
      const std::int64_t rest = slots - base;
      return expert == 0 ? base : rest / (e - 1) + (expert - 1 < rest % (e - 1) ? 1 : 0);
    };
    DispatchedRows rows{slots, share(0), 0, 0,
                        shape_.expert_parallel_size == 1 || !shape_.placement.dispatches(layer)};
    for (const int expert : shape_.placement.replicated_experts(layer)) rows.replicated += share(expert);
    for (const int expert : shape_.placement.experts_on(layer, shape_.expert_parallel_rank))
      rows.received += share(expert) * shape_.expert_parallel_size;
    return rows;
  }

  void layer_forward(const LayerSizes& sizes) {
    const ScratchScope scope(memory_.scratch);
    count<MiddleSaved>(sizes);
    {
      const ScratchScope attention(memory_.scratch);
      count<AttentionSaved>(sizes);
      count<AttentionForwardScratch>(sizes);
    }
    count<NormedInput>(sizes);
    if (sizes.config.is_moe(sizes.layer)) {
      moe_forward(sizes);
    } else {
      count<FeedForwardSaved>(dense_sizes(sizes));
      count<FeedForwardHidden>(dense_sizes(sizes));
    }
  }

  void moe_forward(const LayerSizes& sizes) {
    count<RouterSaved>(sizes);
    {
      const ScratchScope scope(memory_.scratch);
      count<RouterForwardScratch>(sizes);
    }
    count<RowOrder>(sizes);
    {
      const ScratchScope scope(memory_.scratch);
      count<RowCounts>(sizes);
    }
    const DispatchedRows rows = rows_of(sizes.layer);
    count<MoeRows>(sizes, rows);
    count<FeedForwardSaved>(base_sizes(sizes, rows));
    count<FeedForwardSaved>(replicated_sizes(sizes, rows));
    {
      const ScratchScope scope(memory_.scratch);
      count<FeedForwardHidden>(local_sizes(sizes, rows));
    }
    count<FeedForwardSaved>(owned_sizes(sizes, rows));
    count<FeedForwardHidden>(owned_sizes(sizes, rows));
  }

  void layer_backward(const LayerSizes& sizes) {
    {
      const ScratchScope scope(memory_.scratch);
      count<MlpBackwardScratch>(sizes);
      if (sizes.config.is_moe(sizes.layer)) {
        moe_backward(sizes);
      } else if (sizes.plan.keeps_base_mlp()) {
        count<FeedForwardScratch>(dense_sizes(sizes));
      }
    }
    if (!sizes.plan.keeps_attention()) return;
    const ScratchScope scope(memory_.scratch);
    count<AttentionBackwardScratch>(sizes);
  }

  void moe_backward(const LayerSizes& sizes) {
    const DispatchedRows rows = rows_of(sizes.layer);
    count<CombineGradients>(sizes);
    {
      const ScratchScope scope(memory_.scratch);
      count<ExpertGradients>(sizes, rows);
      if (sizes.plan.any_expert_gradient()) count<FeedForwardScratch>(largest_sizes(sizes, rows));
    }
    count<RouterBackwardScratch>(sizes);
  }

  const StepShape& shape_;
  FrameSizes frame_;
  BaseLoad load_;
  bool staged_;
  CountedMemory memory_;
};

}  // namespace

StepCost step_cost(const StepShape& shape, BaseLoad load) {
  return CountedPass(shape, load, false).run();
}

StepBytes reserved_step_bytes(const StepShape& shape) {
  const StepBytes least = CountedPass(shape, BaseLoad::least, true).run().peak,
                  most = CountedPass(shape, BaseLoad::most, true).run().peak;
  constexpr std::int64_t rounding = std::int64_t{1} << 20;
  return {std::max(least.saved, most.saved) + rounding, std::max(least.scratch, most.scratch) + rounding,
          std::max(least.to_experts, most.to_experts), std::max(least.from_experts, most.from_experts)};
}

Flops layer_flops(const StepShape& shape, int layer, std::int64_t seq_length, const LayerRouting& routing) {
  const LayerSizes sizes = shape.layer(layer);
  const Flops attention = attention_flops(sizes, seq_length);
  const Flops mlp = shape.config.is_moe(layer)
                        ? moe_flops(sizes, routing.slots_of_expert, routing.num_computed, routing.num_trained)
                        : feed_forward_flops(shape.config, shape.num_tokens, sizes.plan.mlp_input,
                                             sizes.plan.base_mlp_weights);
  return {attention.forward + mlp.forward, attention.backward + mlp.backward};
}

std::int64_t exchange_bytes(const StepShape& shape, int layer, const LayerRouting& routing,
                            std::int64_t num_passes) {
  if (!shape.config.is_moe(layer) || shape.expert_parallel_size == 1) return 0;
  std::int64_t counts = 0, out = 0, own = 0;
  const auto num_experts = static_cast<int>(routing.slots_of_expert.size());
  for (int e = 1; e < num_experts; ++e) {
    const std::int64_t slots = routing.slots_of_expert[static_cast<std::size_t>(e)];
    if (shape.placement.holds(layer, e, shape.expert_parallel_rank)) {
      own += slots;
    } else {
      ++counts;
      out += slots;
    }
  }
  const LayerPlan& plan = shape.freeze.layers[static_cast<std::size_t>(layer)];
  const std::int64_t back = routing.num_computed - own;
  const std::int64_t rows = out + back + (plan.any_expert_gradient() ? out : 0) + (plan.mlp_input ? back : 0);
  return rows * shape.config.hidden_size * size_of(shape.dtype) + size_of(DType::int64) * counts * num_passes;
}

}  // namespace nmoe::model

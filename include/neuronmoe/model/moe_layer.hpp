#pragma once
// The mixture-of-experts layer (METHOD 5): router, dispatch, experts, combine; forward and backward. Used by
// Decoder.
#include <memory>
#include <vector>

#include "neuronmoe/model/feed_forward.hpp"
#include "neuronmoe/model/freeze_plan.hpp"
#include "neuronmoe/model/observer.hpp"
#include "neuronmoe/model/step_memory.hpp"
#include "neuronmoe/model/token_dispatcher.hpp"
#include "neuronmoe/ops/moe.hpp"

namespace nmoe::model {

struct MoeWeights {
  Weight router;                    // [E, D]
  ConstTensorView place_of_expert;  // [E] int32, TokenDispatcher::places_of_experts
  FeedForwardWeights base;
  /// [expert id][source rank of the expert-parallel group]: same value, one gradient leaf per source; empty
  /// when the expert is not held by this rank.
  std::vector<std::vector<FeedForwardWeights>> experts;
};

/// Auxiliary-loss settings of one layer in one micro-batch; scales already hold coefficient and every mean.
struct AuxLossScales {
  double balancing = 0.0;  ///< 0: the balancing loss is neither computed nor differentiated
  double lpr = 0.0;        ///< 0: neither is the language-prior loss
  ops::LprForm lpr_form = ops::LprForm::double_softmax;
  /// Statistics over several micro-batches for the balancing loss (lbl.scope = global), [E] float64 each; {}
  /// = this micro-batch alone.
  ConstTensorView choice_counts, prob_sums;
  double num_tokens = 0.0;  ///< that they were taken over
};
/// Where the losses of one layer go: [1] float64 each, on the stream's device. Left alone where the scale is
/// 0, the balancing loss also where it is taken from given statistics.
struct AuxLosses {
  TensorView balancing;  ///< loss of this layer (METHOD 6.2)
  TensorView lpr_sum;    ///< sum over masked tokens (METHOD 6.3)
};

/// What one layer keeps between forward and backward, as its LayerPlan says; the rest lives in scratch memory
/// and is gone. Inputs that are on this rank are never kept: backward gathers them again.
struct MoeSaved {
  std::unique_ptr<TokenDispatcher> dispatcher;
  TensorView probs, weights, indices;  // [T, E] acc, [T, K] acc, [T, K] int32
  TensorView combine_weights;          // [T, K] acc: weights, rounded to the model's type if release_router
  TensorView out_rows;                 // [N, D] expert outputs in permuted order
  TensorView rows;                     // [N, D] gathered inputs; forward only
  TensorView received;  // [R, D] inputs of the experts held here, if they came from others and are kept
  // Gate and up of base rows [N0, F], rows of replicated experts [N1, F] and received rows [R, F].
  FeedForwardSaved base, replicated, experts;
};

class MoeLayer {
 public:
  MoeLayer(int layer, const ModelConfig& config, const ExpertParallelGroup& group)
      : layer_(layer),
        num_experts_(config.num_experts[static_cast<std::size_t>(layer)]),
        top_k_(config.top_k),
        release_(config.release_router),
        group_(group) {}

  /// y = MoE(x), both [T, D].   Collective over the expert-parallel group, also for T = 0.
  void forward(TensorView y, ConstTensorView x, ConstTensorView row_sample, const MoeWeights& weights,
               MoeSaved& saved, const LayerPlan& plan, StepMemory& memory, ActivationObserver* observer,
               Stream& stream) const;
  /// Balancing statistics of the forward (ops::balancing_statistics), [E] float64 each.
  void statistics(TensorView counts, TensorView sums, const MoeSaved& saved, Stream& stream) const {
    ops::balancing_statistics(counts, sums, saved.probs, saved.indices, stream);
  }
  /// Gradients of what `plan` names; dx [T, D] (=) only if plan.mlp_input, else {}. x is forward's.
  /// Collective likewise.
  void backward(TensorView dx, ConstTensorView dy, ConstTensorView x, ConstTensorView old_mask,
                const MoeWeights& weights, MoeSaved& saved, const AuxLossScales& scales,
                const AuxLosses& losses, const LayerPlan& plan, StepMemory& memory, Stream& stream) const;

 private:
  void route(ConstTensorView x, const MoeWeights& weights, MoeSaved& saved, Arena& kept, Arena& scratch,
             Stream& stream) const;
  void run_local(const MoeWeights& weights, MoeSaved& saved, const LayerPlan& plan, StepMemory& memory,
                 Stream& stream) const;
  void run_experts(const MoeWeights& weights, MoeSaved& saved, const Arrivals& inputs, TensorView expert_out,
                   const LayerPlan& plan, StepMemory& memory, Stream& stream) const;
  void observe(ActivationObserver& observer, const MoeSaved& saved, ConstTensorView expert_out,
               ConstTensorView row_sample, Stream& stream) const;
  /// Sets the inputs of base and experts for weight gradients: gathered from x again where they are local.
  void restore_inputs(ConstTensorView x, MoeSaved& saved, const LayerPlan& plan, Arena& scratch,
                      Stream& stream) const;
  void backward_local(TensorView dx_rows, ConstTensorView d_rows, const MoeWeights& weights,
                      const MoeSaved& saved, const FeedForwardScratch& buffers, Stream& stream) const;
  void backward_experts(TensorView dx_rows, ConstTensorView d_rows, const MoeWeights& weights,
                        const MoeSaved& saved, StepMemory& memory, Stream& stream) const;
  void backward_router(TensorView dx, TensorView dweights, ConstTensorView x, ConstTensorView old_mask,
                       const MoeWeights& weights, MoeSaved& saved, const AuxLossScales& scales,
                       const AuxLosses& losses, Arena& scratch, Stream& stream) const;

  int layer_, num_experts_, top_k_;
  bool release_;
  const ExpertParallelGroup& group_;
};

}  // namespace nmoe::model

#pragma once
// The mixture-of-experts layer (METHOD 5): router, dispatch, experts, combine; forward and backward. Used by
// Decoder.
#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "neuronmoe/model/feed_forward.hpp"
#include "neuronmoe/model/router.hpp"
#include "neuronmoe/model/token_dispatcher.hpp"

namespace nmoe::model {

struct MoeWeights {
  Weight router;                    // [E, D]
  ConstTensorView place_of_expert;  // [E] int32, TokenDispatcher::places_of_experts
  FeedForwardWeights base;
  /// [expert id][source rank of the expert-parallel group]: same value, one gradient leaf per source; empty
  /// when the expert is not held by this rank.
  std::vector<std::vector<FeedForwardWeights>> experts;
};

/// The permuted rows of one forward.
struct MoeRows {
  TensorView out_rows;    // [N, D] expert outputs in permuted order, kept as what routing keeps
  TensorView rows;        // [N, D] gathered inputs; forward only
  TensorView received;    // [R, D] inputs of the experts held here, if they came from others
  TensorView expert_out;  // [R, D] what they make of them, likewise
};
template <typename F>
void for_each_buffer(MoeRows& b, const LayerSizes& s, const DispatchedRows& n, F&& f) {
  const Shape all{n.all, s.config.hidden_size}, received{n.received, s.config.hidden_size};
  f(b.out_rows, kept_if(s.plan.router), all, s.dtype);
  f(b.rows, n.local ? Memory::scratch : Memory::to_experts, all, s.dtype);
  if (n.local) return;
  f(b.received, kept_if(s.plan.experts), received, s.dtype);
  f(b.expert_out, Memory::from_experts, received, s.dtype);
}

/// Inputs of the networks that run in a forward of the layer, for the lists of feed_forward.hpp: the base,
/// all replicated experts, all experts that this rank owns.
inline FeedForwardSizes base_sizes(const LayerSizes& s, const DispatchedRows& n) {
  return {n.base, s.config.intermediate_size, s.dtype, kept_if(s.plan.keeps_base_mlp())};
}
inline FeedForwardSizes replicated_sizes(const LayerSizes& s, const DispatchedRows& n) {
  return {n.replicated, s.config.intermediate_size, s.dtype, kept_if(s.plan.keeps_experts())};
}
inline FeedForwardSizes owned_sizes(const LayerSizes& s, const DispatchedRows& n) {
  return {n.received, s.config.intermediate_size, s.dtype, kept_if(s.plan.keeps_experts())};
}
/// Returns the sizes of the scratch that base and replicated experts share in forward, and that all share in
/// backward.
inline FeedForwardSizes local_sizes(const LayerSizes& s, const DispatchedRows& n) {
  return {std::max(n.base, n.replicated), s.config.intermediate_size, s.dtype};
}
inline FeedForwardSizes largest_sizes(const LayerSizes& s, const DispatchedRows& n) {
  return {std::max({n.base, n.replicated, n.received}), s.config.intermediate_size, s.dtype};
}

/// Gradients of the weights that combine outputs, to the end of backward.
struct CombineGradients {
  TensorView dweights, narrow;  // [T, K] acc; in the model's type, if release_router
};
template <typename F>
void for_each_buffer(CombineGradients& b, const LayerSizes& s, F&& f) {
  f(b.dweights, Memory::scratch, {s.num_tokens, s.top_k()}, s.acc());
  if (s.config.release_router) f(b.narrow, Memory::scratch, {s.num_tokens, s.top_k()}, s.dtype);
}

/// Inside the backward of base and experts.
struct ExpertGradients {
  TensorView d_rows;                   // [N, D] gradients of out_rows
  TensorView dx_rows;                  // [N, D] of the inputs, if anything below needs them
  TensorView base_x, replicated_x;     // inputs for weight gradients, gathered again
  TensorView owned_x;                  // likewise, if they are this rank's own rows
  TensorView d_received, dx_received;  // [R, D], if they come from others; the latter as dx_rows
};
template <typename F>
void for_each_buffer(ExpertGradients& b, const LayerSizes& s, const DispatchedRows& n, F&& f) {
  const LayerPlan& plan = s.plan;
  const Shape all{n.all, s.config.hidden_size}, received{n.received, s.config.hidden_size};
  f(b.d_rows, n.local ? Memory::scratch : Memory::to_experts, all, s.dtype);
  if (!plan.any_expert_gradient()) return;
  if (plan.mlp_input) f(b.dx_rows, Memory::scratch, all, s.dtype);
  if (plan.base_mlp_weights) f(b.base_x, Memory::scratch, {n.base, s.config.hidden_size}, s.dtype);
  if (plan.experts) f(b.replicated_x, Memory::scratch, {n.replicated, s.config.hidden_size}, s.dtype);
  if (plan.experts && n.local) f(b.owned_x, Memory::scratch, received, s.dtype);
  if (n.local) return;
  f(b.d_received, Memory::scratch, received, s.dtype);
  if (plan.mlp_input) f(b.dx_received, Memory::from_experts, received, s.dtype);
}

/// What one layer keeps between forward and backward, as its LayerPlan says; the rest lives in scratch memory
/// and is gone. Inputs that are on this rank are never kept: backward gathers them again.
struct MoeSaved {
  RouterSaved router;
  std::unique_ptr<TokenDispatcher> dispatcher;
  MoeRows rows;
  // Gate and up of base rows [N0, F], rows of replicated experts [N1, F] and received rows [R, F].
  FeedForwardSaved base, replicated, experts;
};

class MoeLayer {
 public:
  /// Both outlive the layer.
  MoeLayer(const ExpertParallelGroup& group, const MoeWeights& weights) : group_(group), weights_(weights) {}

  /// y = MoE(x), both [T, D].   Collective over the expert-parallel group, also for T = 0.
  void forward(TensorView y, ConstTensorView x, ConstTensorView row_sample, MoeSaved& saved,
               const LayerPass& pass) const;
  /// Gradients of what the plan names; dx [T, D] (=) only if plan.mlp_input, else {}. x is forward's.
  /// Collective likewise.
  void backward(TensorView dx, ConstTensorView dy, ConstTensorView x, MoeSaved& saved,
                const RouterLosses& losses, const LayerPass& pass) const;

 private:
  void run_local(MoeSaved& saved, const LayerPass& pass) const;
  void run_experts(MoeSaved& saved, const Arrivals& inputs, TensorView expert_out,
                   const LayerPass& pass) const;
  void observe(const MoeSaved& saved, ConstTensorView expert_out, ConstTensorView row_sample,
               const LayerPass& pass) const;
  /// Sets the inputs of base and experts for weight gradients: gathered from x again where they are local.
  void restore_inputs(const ExpertGradients& gradients, ConstTensorView x, MoeSaved& saved,
                      const LayerPass& pass) const;
  void backward_local(const ExpertGradients& gradients, const MoeSaved& saved,
                      const FeedForwardScratch& buffers, Stream& stream) const;
  void backward_experts(const ExpertGradients& gradients, const MoeSaved& saved, const LayerPass& pass) const;

  const ExpertParallelGroup& group_;
  const MoeWeights& weights_;
};

/// Returns the work of the layer on rows of its tokens for each expert [E] and on `num_computed` rows of new
/// experts, whosever they are, of which `num_trained` are of experts whose weights train.
Flops moe_flops(const LayerSizes& sizes, std::span<const std::int64_t> slots_of_expert,
                std::int64_t num_computed, std::int64_t num_trained);

}  // namespace nmoe::model

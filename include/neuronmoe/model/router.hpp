#pragma once
// The router of a MoE layer (METHOD 5 steps 2-4) and the losses on it (METHOD 6): forward, backward, and the
// list of auxiliary losses that decoder, trainer, metrics and plan iterate over. Used by MoeLayer and
// Decoder. Shape letters: ops/linear.hpp.
#include <iterator>
#include <string_view>

#include "neuronmoe/model/layer_pass.hpp"
#include "neuronmoe/model/parameter.hpp"
#include "neuronmoe/ops/moe.hpp"

namespace nmoe::model {

/// Scales of the losses of one micro-batch; they already hold the division by tokens and micro-batches of the
/// step. An auxiliary loss of scale 0 is neither computed nor differentiated.
struct LossScales {
  double lm = 0.0;         ///< on every token's cross-entropy, e.g. 1 / valid labels of the global batch
  double balancing = 0.0;  ///< on the mean over MoE layers, e.g. 0.01 / M
  double lpr = 0.0;        ///< on the language-prior loss as averaged by lpr_by_expert_count, e.g. 0.1 / M
  ops::LprForm lpr_form = ops::LprForm::double_softmax;
  bool lpr_by_expert_count =
      true;  ///< mean within groups of layers with equal E, then over groups; false = flat
};

/// Losses of one micro-batch, unscaled.
struct Losses {
  double lm_sum = 0.0;          ///< Σ cross-entropy over valid labels, nats
  std::int64_t num_labels = 0;  ///< valid labels
  double balancing = 0.0;       ///< mean over MoE layers
  double lpr = 0.0;             ///< 0 when no token is masked
};

/// The auxiliary losses on one layer in one micro-batch.
struct RouterLosses {
  LossScales scales;         ///< of the layer: they hold every mean
  TensorView values;         ///< [num_auxiliary_losses, 1] float64, on the stream's device
  ConstTensorView old_mask;  ///< [T] uint8
  /// Statistics over several micro-batches for the balancing loss (lbl.scope = global), [E] float64 each; {}
  /// = this micro-batch alone.
  ConstTensorView choice_counts, prob_sums;
  double num_tokens = 0.0;  ///< that they were taken over
};

/// What one layer keeps of routing between forward and backward, as its LayerPlan says.
struct RouterSaved {
  TensorView probs, weights, indices;  // [T, E] acc, [T, K] acc, [T, K] int32
  TensorView combine_weights;          // [T, K] acc: weights, rounded to the model's type if release_router
};
template <typename F>
void for_each_buffer(RouterSaved& b, const LayerSizes& s, F&& f) {
  const Memory kept = kept_if(s.plan.router);
  f(b.probs, kept, {s.num_tokens, s.num_experts()}, s.acc());
  f(b.weights, kept, {s.num_tokens, s.top_k()}, s.acc());
  f(b.indices, kept, {s.num_tokens, s.top_k()}, DType::int32);
  if (s.config.release_router) f(b.combine_weights, kept, {s.num_tokens, s.top_k()}, s.acc());
}

/// Inside forward.
struct RouterForwardScratch {
  TensorView logits;                         // [T, E] acc
  TensorView narrow_logits, narrow_weights;  // [T, E], [T, K] in the model's type, if release_router
  TensorView wide_x, wide_router;            // [T, D], [E, D] acc, if that is not the model's type
};
template <typename F>
void for_each_buffer(RouterForwardScratch& b, const LayerSizes& s, F&& f) {
  f(b.logits, Memory::scratch, {s.num_tokens, s.num_experts()}, s.acc());
  if (s.config.release_router) {
    f(b.narrow_logits, Memory::scratch, {s.num_tokens, s.num_experts()}, s.dtype);
    f(b.narrow_weights, Memory::scratch, {s.num_tokens, s.top_k()}, s.dtype);
  } else if (s.dtype != s.acc()) {
    f(b.wide_x, Memory::scratch, {s.num_tokens, s.config.hidden_size}, s.acc());
    f(b.wide_router, Memory::scratch, {s.num_experts(), s.config.hidden_size}, s.acc());
  }
}

/// Inside backward.
struct RouterBackwardScratch {
  TensorView dprobs;                        // [T, E] acc, if there are auxiliary losses
  TensorView choice_counts;                 // [E] float64, if the balancing loss takes them from elsewhere
  TensorView dlogits, narrow_dlogits;       // [T, E] acc; in the model's type, if release_router
  TensorView wide_x, wide_router, wide_dx;  // [T, D], [E, D], [T, D] acc, if that is not the model's type
};
template <typename F>
void for_each_buffer(RouterBackwardScratch& b, const LayerSizes& s, F&& f) {
  const Shape probs{s.num_tokens, s.num_experts()}, input{s.num_tokens, s.config.hidden_size};
  if (s.router_losses) f(b.dprobs, Memory::scratch, probs, s.acc());
  if (s.global_balancing) f(b.choice_counts, Memory::scratch, {s.num_experts()}, DType::float64);
  f(b.dlogits, Memory::scratch, probs, s.acc());
  if (s.config.release_router) f(b.narrow_dlogits, Memory::scratch, probs, s.dtype);
  if (s.dtype == s.acc()) return;
  if (s.plan.router) f(b.wide_x, Memory::scratch, input, s.acc());
  if (!s.plan.mlp_input) return;
  f(b.wide_router, Memory::scratch, {s.num_experts(), s.config.hidden_size}, s.acc());
  f(b.wide_dx, Memory::scratch, input, s.acc());
}

/// What an auxiliary loss is computed from in the backward of a layer.
struct RouterLossPass {
  TensorView dprobs;  ///< [T, E] acc: gradients of all of them are added up here
  const RouterSaved& saved;
  const RouterLosses& losses;
  TensorView choice_counts;  ///< [E] float64 scratch, if losses.choice_counts is given
  Stream& stream;
};

/// An auxiliary loss. Its slot among the losses of a micro-batch is its position in auxiliary_losses.
struct AuxiliaryLoss {
  std::string_view name;  ///< metrics.jsonl calls it loss_<name>
  double LossScales::*scale;
  double Losses::*value;
  /// Returns what the loss of a layer is divided by in the mean over layers (and tokens); 0: not part of it.
  double (*divisor)(const ModelConfig& config, int layer, const LossScales& scales, std::int64_t num_old);
  /// Writes the loss of the layer to `value` [1] float64, unless `known` gives it, and adds its gradient.
  void (*backward)(TensorView value, const RouterLossPass& pass);
  /// Returns the loss where it follows from what the host knows, else `computed`; null: it never does.
  double (*known)(const RouterLosses& losses, double computed) = nullptr;
};
double balancing_divisor(const ModelConfig& config, int layer, const LossScales& scales,
                         std::int64_t num_old);
void balancing_backward(TensorView value, const RouterLossPass& pass);
double balancing_known(const RouterLosses& losses, double computed);
double lpr_divisor(const ModelConfig& config, int layer, const LossScales& scales, std::int64_t num_old);
void lpr_backward(TensorView value, const RouterLossPass& pass);

inline constexpr AuxiliaryLoss auxiliary_losses[] = {
    {"lbl", &LossScales::balancing, &Losses::balancing, balancing_divisor, balancing_backward,
     balancing_known},
    {"lpr", &LossScales::lpr, &Losses::lpr, lpr_divisor, lpr_backward},
};
inline constexpr int num_auxiliary_losses = static_cast<int>(std::size(auxiliary_losses));
/// Returns whether any of them has a scale other than 0.
bool has_auxiliary_loss(const LossScales& scales);

/// Numbers of the balancing statistics of a model, but for the token count: [E] counts and [E] sums of each
/// MoE layer.
std::int64_t num_balancing_statistics(const ModelConfig& config);

class Router {
 public:
  /// @param weight [E, D], outlives the router
  explicit Router(const Weight& weight) : weight_(weight) {}
  /// Chooses the experts of each token of x [T, D].
  RouterSaved forward(ConstTensorView x, const LayerPass& pass) const;
  /// Adds the router's weight gradient and, unless dx is {}, dx [T, D] (+=), from dweights [T, K] acc and the
  /// auxiliary losses.
  void backward(TensorView dx, ConstTensorView dweights, ConstTensorView x, const RouterSaved& saved,
                const RouterLosses& losses, const LayerPass& pass) const;

 private:
  const Weight& weight_;
};
/// Returns the work of the router of a layer.
Flops router_flops(const LayerSizes& sizes);

}  // namespace nmoe::model

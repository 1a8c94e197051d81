// Routing, its backward, and the auxiliary losses on it.
#include "neuronmoe/model/router.hpp"

#include <algorithm>
#include <set>

#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

/// The router works in acc (fp32 for bf16 models): values widened into `wide` once per use, or passed through
/// if there is none.
ConstTensorView widened(ConstTensorView x, TensorView wide, Stream& stream) {
  if (!wide) return x;
  ops::cast(wide, x, stream);
  return wide;
}

/// to = from rounded to the type of `narrow` (router.compat = release).
void round_through(TensorView narrow, TensorView to, ConstTensorView from, Stream& stream) {
  ops::cast(narrow, from, stream);
  ops::cast(to, narrow, stream);
}

}  // namespace

RouterSaved Router::forward(ConstTensorView x, const LayerPass& pass) const {
  Stream& stream = pass.stream;
  const ModelConfig& config = pass.sizes.config;
  RouterSaved saved = take_buffers<RouterSaved>(pass.memory, pass.sizes);
  const ScratchScope scope(pass.memory.scratch);
  const auto scratch = take_buffers<RouterForwardScratch>(pass.memory, pass.sizes);
  if (config.release_router) {  // METHOD 11 row 38: logits are stored in the model's type
    ops::linear_forward(scratch.narrow_logits, x, weight_.value, {}, stream);
    ops::cast(scratch.logits, scratch.narrow_logits, stream);
  } else {
    ops::linear_forward(scratch.logits, widened(x, scratch.wide_x, stream),
                        widened(weight_.value, scratch.wide_router, stream), {}, stream);
  }
  ops::route_forward(saved.probs, saved.weights, saved.indices, scratch.logits, config.top_k != 1, stream);
  if (config.release_router) {
    round_through(scratch.narrow_weights, saved.combine_weights, saved.weights, stream);
  } else {
    saved.combine_weights = saved.weights;
  }
  return saved;
}

void Router::backward(TensorView dx, ConstTensorView dweights, ConstTensorView x, const RouterSaved& saved,
                      const RouterLosses& losses, const LayerPass& pass) const {
  Stream& stream = pass.stream;
  const auto scratch = take_buffers<RouterBackwardScratch>(pass.memory, pass.sizes);
  TensorView dprobs;
  if (has_auxiliary_loss(losses.scales)) {
    dprobs = scratch.dprobs;
    ops::fill(dprobs, 0.0, stream);
    const RouterLossPass loss_pass{dprobs, saved, losses, scratch.choice_counts, stream};
    for (int i = 0; i < num_auxiliary_losses; ++i) {
      if (losses.scales.*auxiliary_losses[i].scale != 0.0)
        auxiliary_losses[i].backward(losses.values.rows(i, 1).reshape({1}), loss_pass);
    }
  }
  const TensorView dlogits = scratch.dlogits;
  ops::route_backward(dlogits, dweights, dprobs, saved.probs, saved.weights, saved.indices,
                      pass.sizes.config.top_k != 1, stream);
  if (scratch.narrow_dlogits) round_through(scratch.narrow_dlogits, dlogits, dlogits, stream);
  if (weight_.grad)
    ops::linear_backward_weight(weight_.grad, dlogits, widened(x, scratch.wide_x, stream), stream);
  if (!dx) return;
  const ConstTensorView router = widened(weight_.value, scratch.wide_router, stream);
  if (!scratch.wide_dx) {
    ops::linear_backward_input(dx, dlogits, router, true, stream);
  } else {
    ops::linear_backward_input(scratch.wide_dx, dlogits, router, false, stream);
    ops::add_inplace(dx, scratch.wide_dx, stream);
  }
}

Flops router_flops(const LayerSizes& s) {
  const std::int64_t product = 2 * s.num_tokens * s.config.hidden_size * s.num_experts();
  return {product, product * ((s.plan.router ? 1 : 0) + (s.plan.mlp_input ? 1 : 0))};
}

bool has_auxiliary_loss(const LossScales& scales) {
  return std::any_of(std::begin(auxiliary_losses), std::end(auxiliary_losses),
                     [&](const AuxiliaryLoss& loss) { return scales.*loss.scale != 0.0; });
}

std::int64_t num_balancing_statistics(const ModelConfig& config) {
  std::int64_t size = 0;
  for (const int e : config.num_experts) size += e > 1 ? 2 * e : 0;
  return size;
}

double balancing_divisor(const ModelConfig& config, int /*layer*/, const LossScales& /*scales*/,
                         std::int64_t /*num_old*/) {
  return config.num_moe_layers();
}

void balancing_backward(TensorView value, const RouterLossPass& pass) {
  const RouterLosses& losses = pass.losses;
  if (!losses.choice_counts) {
    ops::load_balancing_loss(value, pass.dprobs, pass.saved.probs, pass.saved.indices,
                             losses.scales.balancing, pass.stream);
  } else if (losses.num_tokens > 0.0) {
    copy(pass.choice_counts, losses.choice_counts, pass.stream);  // to where dprobs is
    ops::balancing_gradient(pass.dprobs, pass.choice_counts, losses.num_tokens, losses.scales.balancing,
                            pass.stream);
  }
}

double balancing_known(const RouterLosses& losses, double computed) {
  if (losses.scales.balancing == 0.0 || !losses.choice_counts) return computed;
  return ops::balancing_loss_of(losses.choice_counts, losses.prob_sums, losses.num_tokens);
}

double lpr_divisor(const ModelConfig& config, int layer, const LossScales& scales, std::int64_t num_old) {
  if (num_old == 0) return 0.0;
  if (!scales.lpr_by_expert_count)
    return static_cast<double>(config.num_moe_layers()) * static_cast<double>(num_old);
  std::set<int> groups;
  int layers_in_group = 0;
  for (const int e : config.num_experts) {
    if (e > 1) groups.insert(e);
    if (e == config.num_experts[static_cast<std::size_t>(layer)]) ++layers_in_group;
  }
  return static_cast<double>(groups.size()) * layers_in_group * static_cast<double>(num_old);
}

void lpr_backward(TensorView value, const RouterLossPass& pass) {
  const RouterLosses& losses = pass.losses;
  ops::lpr_loss_sum(value, pass.dprobs, pass.saved.probs, losses.old_mask, losses.scales.lpr_form,
                    losses.scales.lpr, pass.stream);
}

}  // namespace nmoe::model

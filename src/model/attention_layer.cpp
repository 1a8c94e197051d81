// Forward and backward of the attention half of a layer.
#include "neuronmoe/model/attention_layer.hpp"

#include <cmath>

#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::model {

namespace {

void offer(ActivationObserver* observer, int layer, Projection projection, ConstTensorView values,
           const SequenceInfo& sequence) {
  const ActivationSite site{layer, projection, -1};
  if (observer != nullptr && observer->wants(site)) observer->observe(site, values, sequence.row_sample);
}

}  // namespace

void norm_residual(TensorView y, TensorView inv_rms, const ResidualStream& in, ConstTensorView norm,
                   double eps, Stream& stream) {
  if (in.pending) {
    ops::add_rms_norm_forward(y, inv_rms, in.x, in.pending, norm, eps, stream);
  } else {
    ops::rms_norm_forward(y, inv_rms, in.x, norm, eps, stream);
  }
}

void AttentionLayer::forward(TensorView y, const ResidualStream& in, const SequenceInfo& sequence,
                             const AttentionWeights& weights, AttentionSaved& saved, const RopeTable& rope,
                             const LayerPlan& plan, StepMemory& memory, ActivationObserver* observer,
                             Stream& stream) const {
  Arena& arena = plan.keeps_attention() ? memory.saved : memory.scratch;
  const ConstTensorView x = in.x;
  const std::int64_t t = x.dim(0), heads = config_.num_attention_heads,
                     kv_heads = config_.num_key_value_heads;
  const std::int64_t d = config_.head_dim;
  const DType dtype = x.dtype(), acc = accumulator_of(dtype);
  saved.x = x;
  saved.inv_rms = arena.take({t}, acc);
  saved.q = arena.take({t, heads, d}, dtype);
  saved.k = arena.take({t, kv_heads, d}, dtype);
  saved.v = arena.take({t, kv_heads, d}, dtype);
  saved.o = arena.take({t, heads, d}, dtype);
  saved.lse = arena.take({t, heads}, acc);
  TensorView xn = memory.scratch.take(x.shape(), dtype);

  norm_residual(xn, saved.inv_rms, in, weights.norm.value, config_.rms_norm_eps, stream);
  const TensorView q2 = saved.q.reshape({t, heads * d}), k2 = saved.k.reshape({t, kv_heads * d});
  const TensorView v2 = saved.v.reshape({t, kv_heads * d});
  ops::linear_forward(q2, xn, weights.q.value, weights.q_bias.value, stream);
  ops::linear_forward(k2, xn, weights.k.value, weights.k_bias.value, stream);
  ops::linear_forward(v2, xn, weights.v.value, weights.v_bias.value, stream);
  offer(observer, layer_, Projection::q, q2, sequence);
  offer(observer, layer_, Projection::k, k2, sequence);
  offer(observer, layer_, Projection::v, v2, sequence);
  ops::rope_apply(saved.q, sequence.positions, rope.cos(), rope.sin(), false, stream);
  ops::rope_apply(saved.k, sequence.positions, rope.cos(), rope.sin(), false, stream);
  ops::attention_forward(saved.o, saved.lse, saved.q, saved.k, saved.v, sequence.offsets,
                         1.0 / std::sqrt(static_cast<double>(d)), stream);
  ops::linear_forward(y, saved.o.reshape({t, heads * d}), weights.o.value, {}, stream);
  offer(observer, layer_, Projection::o, y, sequence);
}

void AttentionLayer::backward(TensorView dx, const SequenceInfo& sequence, const AttentionWeights& weights,
                              const AttentionSaved& saved, const RopeTable& rope, const LayerPlan& plan,
                              Arena& arena, Stream& stream) const {
  const ScratchScope scope(arena);
  const std::int64_t t = dx.dim(0), heads = config_.num_attention_heads,
                     kv_heads = config_.num_key_value_heads;
  const std::int64_t d = config_.head_dim;
  const DType dtype = dx.dtype();
  TensorView d_o = arena.take({t, heads, d}, dtype), dq = arena.take({t, heads, d}, dtype);
  TensorView dk = arena.take({t, kv_heads, d}, dtype), dv = arena.take({t, kv_heads, d}, dtype);
  TensorView dxn = arena.take(dx.shape(), dtype);

  if (plan.attention_weights)
    ops::linear_backward_weight(weights.o.grad, dx, saved.o.reshape({t, heads * d}), stream);
  ops::linear_backward_input(d_o.reshape({t, heads * d}), dx, weights.o.value, false, stream);
  ops::attention_backward(dq, dk, dv, d_o, saved.o, saved.q, saved.k, saved.v, saved.lse, sequence.offsets,
                          1.0 / std::sqrt(static_cast<double>(d)), stream);
  ops::rope_apply(dq, sequence.positions, rope.cos(), rope.sin(), true, stream);
  ops::rope_apply(dk, sequence.positions, rope.cos(), rope.sin(), true, stream);
  const TensorView dq2 = dq.reshape({t, heads * d}), dk2 = dk.reshape({t, kv_heads * d});
  const TensorView dv2 = dv.reshape({t, kv_heads * d});
  if (plan.attention_weights) {
    const TensorView xn = arena.take(dx.shape(), dtype);
    ops::rms_norm_forward(xn, saved.inv_rms, saved.x, weights.norm.value, config_.rms_norm_eps, stream);
    ops::linear_backward_weight(weights.q.grad, dq2, xn, stream);
    ops::linear_backward_weight(weights.k.grad, dk2, xn, stream);
    ops::linear_backward_weight(weights.v.grad, dv2, xn, stream);
    if (weights.q_bias.value) {
      ops::linear_backward_bias(weights.q_bias.grad, dq2, stream);
      ops::linear_backward_bias(weights.k_bias.grad, dk2, stream);
      ops::linear_backward_bias(weights.v_bias.grad, dv2, stream);
    }
  }
  ops::linear_backward_input(dxn, dq2, weights.q.value, false, stream);
  ops::linear_backward_input(dxn, dk2, weights.k.value, true, stream);
  ops::linear_backward_input(dxn, dv2, weights.v.value, true, stream);
  ops::rms_norm_backward(dx, weights.norm.grad, dxn, saved.x, weights.norm.value, saved.inv_rms, true,
                         stream);
}

}  // namespace nmoe::model

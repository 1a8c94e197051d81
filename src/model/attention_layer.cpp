// Forward and backward of the attention half of a layer.
#include "neuronmoe/model/attention_layer.hpp"

#include <cmath>

#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

/// The rows of a norm over heads, [T·H, d].
TensorView head_rows(TensorView x) {
  return x.reshape({x.dim(0) * x.dim(1), x.dim(2)});
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

void AttentionLayer::norm_heads(const NormedHeads& normed, const SequenceInfo& sequence,
                                const AttentionSaved& saved, const LayerPass& pass) const {
  const double eps = pass.sizes.config.rms_norm_eps;
  ops::rms_norm_forward(head_rows(normed.q), normed.q_inv_rms, head_rows(saved.q), weights_.q_norm.value, eps,
                        pass.stream);
  ops::rms_norm_forward(head_rows(normed.k), normed.k_inv_rms, head_rows(saved.k), weights_.k_norm.value, eps,
                        pass.stream);
  ops::rope_apply(normed.q, sequence.positions, rope_.cos(), rope_.sin(), false, pass.stream);
  ops::rope_apply(normed.k, sequence.positions, rope_.cos(), rope_.sin(), false, pass.stream);
}

void AttentionLayer::attend(const AttentionSaved& saved, ConstTensorView q, ConstTensorView k,
                            const SequenceInfo& sequence, const LayerPass& pass) const {
  const double scale = 1.0 / std::sqrt(static_cast<double>(pass.sizes.config.head_dim));
  const std::int64_t t = q.dim(0), alone = sequence.offsets.back(), behind = t - alone;
  if (sequence.cache != nullptr) {
    const std::int64_t before = sequence.cache->length();
    const auto [keys, values] = sequence.cache->layer(pass.sizes.layer);
    copy(keys.rows(before, t), k, pass.stream);
    copy(values.rows(before, t), saved.v, pass.stream);
    const ops::PrefixedSequence only{0, t, 0, before, before};
    ops::attention_prefixed_forward(saved.o, q, keys, values, {&only, 1}, scale, pass.stream);
    return;
  }
  ops::attention_forward(saved.o.rows(0, alone), saved.lse.rows(0, alone), q.rows(0, alone), k.rows(0, alone),
                         saved.v.rows(0, alone), sequence.offsets, scale, pass.stream);
  if (behind > 0)
    ops::attention_prefixed_forward(saved.o.rows(alone, behind), q.rows(alone, behind), k, saved.v,
                                    sequence.prefixed, scale, pass.stream);
}

void AttentionLayer::forward(TensorView y, const ResidualStream& in, const SequenceInfo& sequence,
                             AttentionSaved& saved, const LayerPass& pass) const {
  const ModelConfig& config = pass.sizes.config;
  Stream& stream = pass.stream;
  const std::int64_t t = in.x.dim(0), d = config.head_dim;
  const Shape wide{t, config.num_attention_heads * d}, narrow{t, config.num_key_value_heads * d};
  saved = take_buffers<AttentionSaved>(pass.memory, pass.sizes);
  saved.x = in.x;
  const auto [xn, normed] = take_buffers<AttentionForwardScratch>(pass.memory, pass.sizes);

  norm_residual(xn, saved.inv_rms, in, weights_.norm.value, config.rms_norm_eps, stream);
  const TensorView q2 = saved.q.reshape(wide), k2 = saved.k.reshape(narrow), v2 = saved.v.reshape(narrow);
  ops::linear_forward(q2, xn, weights_.q.value, weights_.q_bias.value, stream);
  ops::linear_forward(k2, xn, weights_.k.value, weights_.k_bias.value, stream);
  ops::linear_forward(v2, xn, weights_.v.value, weights_.v_bias.value, stream);
  const LayerIntervention replaced = pass.replaced();
  replaced.apply(Projection::q, q2, stream);
  replaced.apply(Projection::k, k2, stream);
  replaced.apply(Projection::v, v2, stream);
  pass.offer(Projection::q, -1, q2, sequence.row_sample);
  pass.offer(Projection::k, -1, k2, sequence.row_sample);
  pass.offer(Projection::v, -1, v2, sequence.row_sample);
  if (config.qk_norm) {
    norm_heads(normed, sequence, saved, pass);
  } else {
    ops::rope_apply(saved.q, sequence.positions, rope_.cos(), rope_.sin(), false, stream);
    ops::rope_apply(saved.k, sequence.positions, rope_.cos(), rope_.sin(), false, stream);
  }
  const TensorView q = config.qk_norm ? normed.q : saved.q, k = config.qk_norm ? normed.k : saved.k;
  attend(saved, q, k, sequence, pass);
  ops::linear_forward(y, saved.o.reshape(wide), weights_.o.value, {}, stream);
  replaced.apply(Projection::o, y, stream);
  pass.offer(Projection::o, -1, y, sequence.row_sample);
}

void AttentionLayer::backward(TensorView dx, const SequenceInfo& sequence, const AttentionSaved& saved,
                              const LayerPass& pass) const {
  const ModelConfig& config = pass.sizes.config;
  Stream& stream = pass.stream;
  const std::int64_t t = dx.dim(0), d = config.head_dim;
  const Shape wide{t, config.num_attention_heads * d}, narrow{t, config.num_key_value_heads * d};
  const ScratchScope scope(pass.memory.scratch);
  const auto [d_o, dq, dk, dv, dxn, xn, normed] =
      take_buffers<AttentionBackwardScratch>(pass.memory, pass.sizes);

  if (pass.plan().attention_weights)
    ops::linear_backward_weight(weights_.o.grad, dx, saved.o.reshape(wide), stream);
  ops::linear_backward_input(d_o.reshape(wide), dx, weights_.o.value, false, stream);
  if (config.qk_norm) norm_heads(normed, sequence, saved, pass);
  const TensorView q = config.qk_norm ? normed.q : saved.q, k = config.qk_norm ? normed.k : saved.k;
  ops::attention_backward(dq, dk, dv, d_o, saved.o, q, k, saved.v, saved.lse, sequence.offsets,
                          1.0 / std::sqrt(static_cast<double>(d)), stream);
  ops::rope_apply(dq, sequence.positions, rope_.cos(), rope_.sin(), true, stream);
  ops::rope_apply(dk, sequence.positions, rope_.cos(), rope_.sin(), true, stream);
  if (config.qk_norm) {
    ops::rms_norm_backward(head_rows(dq), weights_.q_norm.grad, head_rows(dq), head_rows(saved.q),
                           weights_.q_norm.value, normed.q_inv_rms, false, stream);
    ops::rms_norm_backward(head_rows(dk), weights_.k_norm.grad, head_rows(dk), head_rows(saved.k),
                           weights_.k_norm.value, normed.k_inv_rms, false, stream);
  }
  const TensorView dq2 = dq.reshape(wide), dk2 = dk.reshape(narrow), dv2 = dv.reshape(narrow);
  if (pass.plan().attention_weights) {
    ops::rms_norm_forward(xn, saved.inv_rms, saved.x, weights_.norm.value, config.rms_norm_eps, stream);
    ops::linear_backward_weight(weights_.q.grad, dq2, xn, stream);
    ops::linear_backward_weight(weights_.k.grad, dk2, xn, stream);
    ops::linear_backward_weight(weights_.v.grad, dv2, xn, stream);
    if (weights_.q_bias.value) {
      ops::linear_backward_bias(weights_.q_bias.grad, dq2, stream);
      ops::linear_backward_bias(weights_.k_bias.grad, dk2, stream);
      ops::linear_backward_bias(weights_.v_bias.grad, dv2, stream);
    }
  }
  ops::linear_backward_input(dxn, dq2, weights_.q.value, false, stream);
  ops::linear_backward_input(dxn, dk2, weights_.k.value, true, stream);
  ops::linear_backward_input(dxn, dv2, weights_.v.value, true, stream);
  ops::rms_norm_backward(dx, weights_.norm.grad, dxn, saved.x, weights_.norm.value, saved.inv_rms, true,
                         stream);
}

Flops attention_flops(const LayerSizes& s, std::int64_t seq_length) {
  const std::int64_t queries = std::int64_t{s.config.num_attention_heads} * s.config.head_dim,
                     keys = std::int64_t{s.config.num_key_value_heads} * s.config.head_dim;
  const std::int64_t projections = 2 * s.num_tokens * s.config.hidden_size * (2 * queries + 2 * keys);
  // Causal: half of length² pairs per sequence, for scores and for values.
  const std::int64_t pairs = s.num_tokens * seq_length * queries;
  Flops flops{projections + 2 * pairs, 0};
  if (s.plan.keeps_attention()) flops.backward = projections * (s.plan.attention_weights ? 2 : 1) + 4 * pairs;
  return flops;
}

}  // namespace nmoe::model

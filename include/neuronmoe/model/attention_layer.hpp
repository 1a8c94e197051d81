#pragma once
// The attention half of a decoder layer: norm, q/k/v projections, rotary embedding, causal grouped-query
// attention, output projection; forward and backward. Used by Decoder. Shape letters:
// ops/linear.hpp.
#include <span>
#include <vector>

#include "neuronmoe/model/key_value_cache.hpp"
#include "neuronmoe/model/layer_pass.hpp"
#include "neuronmoe/model/parameter.hpp"
#include "neuronmoe/model/rope_table.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::model {

struct AttentionWeights {
  Weight norm;                    // [D]
  Weight q, k, v, o;              // [H·d, D], [G·d, D], [G·d, D], [D, H·d]
  Weight q_bias, k_bias, v_bias;  // [H·d], [G·d], [G·d]; value {} when the model has none
  Weight q_norm, k_norm;          // [d]; value {} when the model has none
};
/// Calls f(role, weight) for every weight of the layer's attention.
template <typename F>
void for_each_weight(AttentionWeights& weights, F&& f) {
  f(Role::attention_norm, weights.norm);
  f(Role::q_weight, weights.q);
  f(Role::k_weight, weights.k);
  f(Role::v_weight, weights.v);
  f(Role::o_weight, weights.o);
  f(Role::q_bias, weights.q_bias);
  f(Role::k_bias, weights.k_bias);
  f(Role::v_bias, weights.v_bias);
  f(Role::q_norm, weights.q_norm);
  f(Role::k_norm, weights.k_norm);
}

/// Positions and sequence cuts of the batch, shared by all layers.
struct SequenceInfo {
  ConstTensorView positions;                    // [T] int32
  std::span<const std::int64_t> offsets;        // of the sequences without prefix, which come first
  std::vector<ops::PrefixedSequence> prefixed;  // the others; `first` counts from the first of their tokens
  ConstTensorView row_sample;
  KeyValueCache* cache = nullptr;  // of the one sequence, whose tokens go on behind those in it
};

/// In memory that backward may read if LayerPlan::keeps_attention().
struct AttentionSaved {
  ConstTensorView x;   // [T, D] layer input; its norm is taken again when q, k, v weights are trainable
  TensorView inv_rms;  // [T] acc
  TensorView q, k, v;  // [T, H, d], [T, G, d], [T, G, d] after the rotary embedding; before the norms of q, k
  TensorView o, lse;   // [T, H, d], [T, H] acc
};
template <typename F>
void for_each_buffer(AttentionSaved& b, const LayerSizes& s, F&& f) {
  const Memory kept = kept_if(s.plan.keeps_attention());
  const ModelConfig& c = s.config;
  f(b.inv_rms, kept, {s.num_tokens}, s.acc());
  f(b.q, kept, {s.num_tokens, c.num_attention_heads, c.head_dim}, s.dtype);
  f(b.k, kept, {s.num_tokens, c.num_key_value_heads, c.head_dim}, s.dtype);
  f(b.v, kept, {s.num_tokens, c.num_key_value_heads, c.head_dim}, s.dtype);
  f(b.o, kept, {s.num_tokens, c.num_attention_heads, c.head_dim}, s.dtype);
  f(b.lse, kept, {s.num_tokens, c.num_attention_heads}, s.acc());
}

/// q and k as attention reads them in a model that norms them: backward takes the norms again.
struct NormedHeads {
  TensorView q, k;                  // [T, H, d], [T, G, d] after norm and rotary embedding
  TensorView q_inv_rms, k_inv_rms;  // [T·H], [T·G] acc
};
template <typename F>
void for_each_buffer(NormedHeads& b, const LayerSizes& s, F&& f) {
  const ModelConfig& c = s.config;
  if (!c.qk_norm) return;
  f(b.q, Memory::scratch, {s.num_tokens, c.num_attention_heads, c.head_dim}, s.dtype);
  f(b.k, Memory::scratch, {s.num_tokens, c.num_key_value_heads, c.head_dim}, s.dtype);
  f(b.q_inv_rms, Memory::scratch, {s.num_tokens * c.num_attention_heads}, s.acc());
  f(b.k_inv_rms, Memory::scratch, {s.num_tokens * c.num_key_value_heads}, s.acc());
}

/// Inside forward.
struct AttentionForwardScratch {
  TensorView xn;  // [T, D] normed input
  NormedHeads normed;
};
template <typename F>
void for_each_buffer(AttentionForwardScratch& b, const LayerSizes& s, F&& f) {
  f(b.xn, Memory::scratch, {s.num_tokens, s.config.hidden_size}, s.dtype);
  for_each_buffer(b.normed, s, f);
}

/// Inside backward.
struct AttentionBackwardScratch {
  TensorView d_o, dq, dk, dv;  // gradients of o, q, k, v
  TensorView dxn, xn;          // [T, D]; the normed input only for weight gradients
  NormedHeads normed;
};
template <typename F>
void for_each_buffer(AttentionBackwardScratch& b, const LayerSizes& s, F&& f) {
  const ModelConfig& c = s.config;
  f(b.d_o, Memory::scratch, {s.num_tokens, c.num_attention_heads, c.head_dim}, s.dtype);
  f(b.dq, Memory::scratch, {s.num_tokens, c.num_attention_heads, c.head_dim}, s.dtype);
  f(b.dk, Memory::scratch, {s.num_tokens, c.num_key_value_heads, c.head_dim}, s.dtype);
  f(b.dv, Memory::scratch, {s.num_tokens, c.num_key_value_heads, c.head_dim}, s.dtype);
  f(b.dxn, Memory::scratch, {s.num_tokens, c.hidden_size}, s.dtype);
  if (s.plan.attention_weights) f(b.xn, Memory::scratch, {s.num_tokens, c.hidden_size}, s.dtype);
  for_each_buffer(b.normed, s, f);
}

/// What flows from layer to layer: x, plus `pending` where it is given. Whoever norms it first adds that to x
/// in the same pass over memory.
struct ResidualStream {
  TensorView x;             // [T, D]
  ConstTensorView pending;  // [T, D] or {}
};
/// x += pending, then y = norm(x) with its scale, as ops::rms_norm_forward.
void norm_residual(TensorView y, TensorView inv_rms, const ResidualStream& in, ConstTensorView norm,
                   double eps, Stream& stream);

class AttentionLayer {
 public:
  /// Both outlive the layer.
  AttentionLayer(const AttentionWeights& weights, const RopeTable& rope) : weights_(weights), rope_(rope) {}
  /// y = Attention(norm(in)), [T, D], without the residual, which is in.x afterwards. y may lie where
  /// in.pending does.
  void forward(TensorView y, const ResidualStream& in, const SequenceInfo& sequence, AttentionSaved& saved,
               const LayerPass& pass) const;
  /// dx += gradient through the attention branch; dx [T, D] holds the gradient of y on entry (the residual
  /// path).
  void backward(TensorView dx, const SequenceInfo& sequence, const AttentionSaved& saved,
                const LayerPass& pass) const;

 private:
  /// Writes o, the output of attention over the rows of `sequence`, which cached ones may come before.
  void attend(const AttentionSaved& saved, ConstTensorView q, ConstTensorView k, const SequenceInfo& sequence,
              const LayerPass& pass) const;
  /// Fills `normed` from q and k of `saved`.
  void norm_heads(const NormedHeads& normed, const SequenceInfo& sequence, const AttentionSaved& saved,
                  const LayerPass& pass) const;
  const AttentionWeights& weights_;
  const RopeTable& rope_;
};
/// Returns the work of the layer on sequences of `seq_length` tokens each.
Flops attention_flops(const LayerSizes& sizes, std::int64_t seq_length);

}  // namespace nmoe::model

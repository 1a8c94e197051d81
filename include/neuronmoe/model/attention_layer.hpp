#pragma once
// The attention half of a decoder layer: norm, q/k/v projections, rotary embedding, causal grouped-query
// attention, output projection; forward and backward. Used by Decoder. Shape letters:
// ops/linear.hpp.
#include <span>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/freeze_plan.hpp"
#include "neuronmoe/model/observer.hpp"
#include "neuronmoe/model/parameter.hpp"
#include "neuronmoe/model/rope_table.hpp"
#include "neuronmoe/model/step_memory.hpp"
#include "neuronmoe/tensor/stream.hpp"

namespace nmoe::model {

struct AttentionWeights {
  Weight norm;                    // [D]
  Weight q, k, v, o;              // [H·d, D], [G·d, D], [G·d, D], [D, H·d]
  Weight q_bias, k_bias, v_bias;  // [H·d], [G·d], [G·d]; value {} when the model has none
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
}

/// Positions and sequence cuts of the batch, shared by all layers.
struct SequenceInfo {
  ConstTensorView positions;  // [T] int32
  std::span<const std::int64_t> offsets;
  ConstTensorView row_sample;
};

/// In memory that backward may read if LayerPlan::keeps_attention().
struct AttentionSaved {
  ConstTensorView x;   // [T, D] layer input; its norm is taken again when q, k, v weights are trainable
  TensorView inv_rms;  // [T] acc
  TensorView q, k, v;  // after the rotary embedding
  TensorView o, lse;   // [T, H, d], [T, H] acc
};

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
  AttentionLayer(int layer, const ModelConfig& config) : layer_(layer), config_(config) {}
  /// y = Attention(norm(in)), [T, D], without the residual, which is in.x afterwards. y may lie where
  /// in.pending does.
  void forward(TensorView y, const ResidualStream& in, const SequenceInfo& sequence,
               const AttentionWeights& weights, AttentionSaved& saved, const RopeTable& rope,
               const LayerPlan& plan, StepMemory& memory, ActivationObserver* observer, Stream& stream) const;
  /// dx += gradient through the attention branch; dx [T, D] holds the gradient of y on entry (the residual
  /// path).
  void backward(TensorView dx, const SequenceInfo& sequence, const AttentionWeights& weights,
                const AttentionSaved& saved, const RopeTable& rope, const LayerPlan& plan, Arena& scratch,
                Stream& stream) const;

 private:
  int layer_;
  const ModelConfig& config_;
};

}  // namespace nmoe::model

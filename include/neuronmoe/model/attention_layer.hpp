#pragma once
// The attention half of a decoder layer: norm, q/k/v projections, rotary embedding, causal grouped-query
// attention, output projection, residual add; forward and backward. Used by Decoder. Shape letters:
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

class AttentionLayer {
 public:
  AttentionLayer(int layer, const ModelConfig& config) : layer_(layer), config_(config) {}
  /// y = x + Attention(norm(x)), [T, D].
  void forward(TensorView y, ConstTensorView x, const SequenceInfo& sequence, const AttentionWeights& weights,
               AttentionSaved& saved, const RopeTable& rope, const LayerPlan& plan, StepMemory& memory,
               ActivationObserver* observer, Stream& stream) const;
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

#pragma once
// What a decoder takes around its layers. Used by its passes and by step_cost.
#include "neuronmoe/model/feed_forward.hpp"
#include "neuronmoe/model/layer_pass.hpp"
#include "neuronmoe/model/router.hpp"

namespace nmoe::model {

/// A micro-batch outside the layers.
struct FrameSizes {
  const ModelConfig& config;
  std::int64_t num_tokens;  ///< T
  DType dtype;
  DType acc() const { return accumulator_of(dtype); }
  Shape stream() const { return {num_tokens, config.hidden_size}; }
};

/// The batch as kernels read it. Ids, labels and mask are used where they are if that is the host.
struct BatchBuffers {
  TensorView positions, ids, labels;  // [T] int32
  TensorView old_mask;                // [T] uint8
};
/// Which parts of a batch there are, and whether kernels read them on another device.
struct BatchParts {
  bool labels = true, old_mask = true, staged = false;
};
template <typename F>
void for_each_buffer(BatchBuffers& b, const FrameSizes& s, const BatchParts& parts, F&& f) {
  f(b.positions, Memory::saved, {s.num_tokens}, DType::int32);
  if (!parts.staged) return;
  f(b.ids, Memory::saved, {s.num_tokens}, DType::int32);
  if (parts.labels) f(b.labels, Memory::saved, {s.num_tokens}, DType::int32);
  if (parts.old_mask) f(b.old_mask, Memory::saved, {s.num_tokens}, DType::uint8);
}

/// A residual stream [T, D]: the embedding's output, the spare one below the layers that train, the output of
/// one that does.
struct StreamBuffer {
  TensorView x;
};
template <typename F>
void for_each_buffer(StreamBuffer& b, const FrameSizes& s, F&& f) {
  f(b.x, Memory::saved, s.stream(), s.dtype);
}

/// Inside a layer's forward, for its MLP.
struct NormedInput {
  TensorView hn;  // [T, D]
};
template <typename F>
void for_each_buffer(NormedInput& b, const LayerSizes& s, F&& f) {
  f(b.hn, Memory::scratch, {s.num_tokens, s.config.hidden_size}, s.dtype);
}

/// Inside a layer's backward, for its MLP.
struct MlpBackwardScratch {
  TensorView dhn, hn;  // [T, D] gradient of the normed input, if it is needed; that input, for weights
};
template <typename F>
void for_each_buffer(MlpBackwardScratch& b, const LayerSizes& s, F&& f) {
  const Shape stream{s.num_tokens, s.config.hidden_size};
  if (s.plan.mlp_input) f(b.dhn, Memory::scratch, stream, s.dtype);
  if (s.config.is_moe(s.layer) || s.plan.base_mlp_weights) f(b.hn, Memory::scratch, stream, s.dtype);
}

/// A dense layer's MLP.
inline FeedForwardSizes dense_sizes(const LayerSizes& s) {
  return {s.num_tokens, s.config.intermediate_size, s.dtype, kept_if(s.plan.keeps_base_mlp())};
}

/// From the end of forward on.
struct LossBuffers {
  TensorView tokens;     // [T] acc
  TensorView auxiliary;  // [L, num_auxiliary_losses] float64
  TensorView dx;         // [T, D]
};
template <typename F>
void for_each_buffer(LossBuffers& b, const FrameSizes& s, F&& f) {
  f(b.tokens, Memory::saved, {s.num_tokens}, s.acc());
  f(b.auxiliary, Memory::saved, {s.config.num_layers, num_auxiliary_losses}, DType::float64);
  f(b.dx, Memory::scratch, s.stream(), s.dtype);
}

/// Around lm-head and cross-entropy.
struct HeadScratch {
  TensorView xf, inv_rms, dxf;  // [T, D], [T] acc, [T, D]
};
template <typename F>
void for_each_buffer(HeadScratch& b, const FrameSizes& s, F&& f) {
  f(b.xf, Memory::scratch, s.stream(), s.dtype);
  f(b.inv_rms, Memory::scratch, {s.num_tokens}, s.acc());
  f(b.dxf, Memory::scratch, s.stream(), s.dtype);
}

/// Of all MoE layers, before they are read (lbl.scope = global): layer after layer [E] counts and [E] sums.
struct BalancingStatistics {
  TensorView all;  // float64
};
template <typename F>
void for_each_buffer(BalancingStatistics& b, const FrameSizes& s, F&& f) {
  f(b.all, Memory::scratch, {num_balancing_statistics(s.config)}, DType::float64);
}

}  // namespace nmoe::model

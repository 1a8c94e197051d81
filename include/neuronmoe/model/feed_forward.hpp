#pragma once
// One SwiGLU feed-forward network (METHOD 5 step 7): a dense MLP, the base expert or a new expert. Used by
// Decoder and MoeLayer. Shape letters: ops/linear.hpp.
#include "neuronmoe/model/layer_pass.hpp"
#include "neuronmoe/model/parameter.hpp"

namespace nmoe::model {

struct FeedForwardWeights {
  Weight gate, up, down;  // [F, D], [F, D], [D, F]
};
/// Calls f(role, weight) for every weight of the network.
template <typename F>
void for_each_weight(FeedForwardWeights& weights, F&& f) {
  f(Role::gate, weights.gate);
  f(Role::up, weights.up);
  f(Role::down, weights.down);
}

/// The rows of one network (or of several experts together) in a layer.
struct FeedForwardSizes {
  std::int64_t num_rows, width;  ///< T, F
  DType dtype;
  Memory kept = Memory::scratch;  ///< where gate and up go
};

/// Outputs kept for backward, owned by the step's arena. h is not kept: backward recomputes it from gate and
/// up.
struct FeedForwardSaved {
  ConstTensorView x;    // [T, D]; only read when weights are trainable
  TensorView gate, up;  // [T, F]
};
template <typename F>
void for_each_buffer(FeedForwardSaved& b, const FeedForwardSizes& s, F&& f) {
  f(b.gate, s.kept, {s.num_rows, s.width}, s.dtype);
  f(b.up, s.kept, {s.num_rows, s.width}, s.dtype);
}

/// Scratch of the forward pass, [T, F]; may be shared between experts.
struct FeedForwardHidden {
  TensorView h;
};
template <typename F>
void for_each_buffer(FeedForwardHidden& b, const FeedForwardSizes& s, F&& f) {
  f(b.h, Memory::scratch, {s.num_rows, s.width}, s.dtype);
}

/// y = W_down(SiLU(W_gate x) ⊙ W_up x), with what `replaced` says of the outputs of the three.
/// @param[out] y [T, D]   @param h scratch [T, F]
void feed_forward_forward(TensorView y, FeedForwardSaved& saved, TensorView h,
                          const FeedForwardWeights& weights, const LayerIntervention& replaced,
                          Stream& stream);

/// Scratch of the backward pass, [T, F] each; may be shared between experts.
struct FeedForwardScratch {
  TensorView h, dh, dgate, dup;
};
template <typename F>
void for_each_buffer(FeedForwardScratch& b, const FeedForwardSizes& s, F&& f) {
  for (TensorView* view : {&b.h, &b.dh, &b.dgate, &b.dup})
    f(*view, Memory::scratch, {s.num_rows, s.width}, s.dtype);
}

/// Adds weight gradients where `grad` is given; writes dx (=) unless it is {}.
void feed_forward_backward(TensorView dx, ConstTensorView dy, const FeedForwardSaved& saved,
                           const FeedForwardScratch& scratch, const FeedForwardWeights& weights,
                           Stream& stream);
/// Returns the work on `num_rows` rows; backward gives gradients of the input, of the weights, or of both.
Flops feed_forward_flops(const ModelConfig& config, std::int64_t num_rows, bool input, bool weights);

}  // namespace nmoe::model

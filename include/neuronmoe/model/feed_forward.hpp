#pragma once
// One SwiGLU feed-forward network (METHOD 5 step 7): a dense MLP, the base expert or a new expert. Used by
// Decoder and MoeLayer. Shape letters: ops/linear.hpp.
#include "neuronmoe/model/parameter.hpp"
#include "neuronmoe/tensor/stream.hpp"

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

/// Outputs kept for backward, owned by the step's arena. h is not kept: backward recomputes it from gate and
/// up.
struct FeedForwardSaved {
  ConstTensorView x;    // [T, D]; only read when weights are trainable
  TensorView gate, up;  // [T, F]
};

/// y = W_down(SiLU(W_gate x) ⊙ W_up x).   @param[out] y [T, D]   @param h scratch [T, F]
void feed_forward_forward(TensorView y, FeedForwardSaved& saved, TensorView h,
                          const FeedForwardWeights& weights, Stream& stream);

/// Scratch of the backward pass, [T, F] each; may be shared between experts.
struct FeedForwardScratch {
  TensorView h, dh, dgate, dup;
};

/// Adds weight gradients where `grad` is given; writes dx (=|+=) unless it is {}.
void feed_forward_backward(TensorView dx, bool accumulate, ConstTensorView dy, const FeedForwardSaved& saved,
                           const FeedForwardScratch& scratch, const FeedForwardWeights& weights,
                           Stream& stream);

}  // namespace nmoe::model

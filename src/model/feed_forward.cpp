// Forward and backward of a SwiGLU network.
#include "neuronmoe/model/feed_forward.hpp"

#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::model {

void feed_forward_forward(TensorView y, FeedForwardSaved& saved, TensorView h,
                          const FeedForwardWeights& weights, Stream& stream) {
  ops::linear_forward(saved.gate, saved.x, weights.gate.value, {}, stream);
  ops::linear_forward(saved.up, saved.x, weights.up.value, {}, stream);
  ops::swiglu_forward(h, saved.gate, saved.up, stream);
  ops::linear_forward(y, h, weights.down.value, {}, stream);
}

void feed_forward_backward(TensorView dx, bool accumulate, ConstTensorView dy, const FeedForwardSaved& saved,
                           const FeedForwardScratch& scratch, const FeedForwardWeights& weights,
                           Stream& stream) {
  if (weights.down.grad) {
    ops::swiglu_forward(scratch.h, saved.gate, saved.up, stream);
    ops::linear_backward_weight(weights.down.grad, dy, scratch.h, stream);
  }
  if (!dx && !weights.gate.grad && !weights.up.grad) return;
  ops::linear_backward_input(scratch.dh, dy, weights.down.value, false, stream);
  ops::swiglu_backward(scratch.dgate, scratch.dup, scratch.dh, saved.gate, saved.up, stream);
  if (weights.gate.grad) ops::linear_backward_weight(weights.gate.grad, scratch.dgate, saved.x, stream);
  if (weights.up.grad) ops::linear_backward_weight(weights.up.grad, scratch.dup, saved.x, stream);
  if (dx) {
    ops::linear_backward_input(dx, scratch.dgate, weights.gate.value, accumulate, stream);
    ops::linear_backward_input(dx, scratch.dup, weights.up.value, true, stream);
  }
}

}  // namespace nmoe::model

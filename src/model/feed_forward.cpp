// Forward and backward of a SwiGLU network.
#include "neuronmoe/model/feed_forward.hpp"

#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::model {

void feed_forward_forward(TensorView y, FeedForwardSaved& saved, TensorView h,
                          const FeedForwardWeights& weights, const LayerIntervention& replaced,
                          Stream& stream) {
  ops::linear_forward(saved.gate, saved.x, weights.gate.value, {}, stream);
  ops::linear_forward(saved.up, saved.x, weights.up.value, {}, stream);
  replaced.apply(Projection::gate, saved.gate, stream);
  replaced.apply(Projection::up, saved.up, stream);
  ops::swiglu_forward(h, saved.gate, saved.up, stream);
  ops::linear_forward(y, h, weights.down.value, {}, stream);
  replaced.apply(Projection::down, y, stream);
}

void feed_forward_backward(TensorView dx, ConstTensorView dy, const FeedForwardSaved& saved,
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
    ops::linear_backward_input(dx, scratch.dgate, weights.gate.value, false, stream);
    ops::linear_backward_input(dx, scratch.dup, weights.up.value, true, stream);
  }
}

Flops feed_forward_flops(const ModelConfig& config, std::int64_t num_rows, bool input, bool weights) {
  const std::int64_t product = 2 * num_rows * config.hidden_size * config.intermediate_size;
  const int through_down = input || weights ? 1 : 0;
  return {3 * product, product * (through_down + (weights ? 3 : 0) + (input ? 2 : 0))};
}

}  // namespace nmoe::model

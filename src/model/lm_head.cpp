// The final projection with cross-entropy, chunk by chunk.
#include "neuronmoe/model/lm_head.hpp"

#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::model {

void lm_head_loss(TensorView losses, TensorView dx, const LmHeadInput& in, const Weight& head,
                  TensorView logits, Stream& stream) {
  const std::int64_t num_tokens = in.x.dim(0);
  for (std::int64_t first = 0; first < num_tokens; first += lm_head_chunk) {
    const std::int64_t count = std::min(lm_head_chunk, num_tokens - first);
    const TensorView chunk = logits.rows(0, count);
    const ConstTensorView x = in.x.rows(first, count);
    ops::linear_forward(chunk, x, head.value, {}, stream);
    ops::cross_entropy(losses.rows(first, count), chunk, in.labels.rows(first, count), in.grad_scale, stream);
    if (in.grad_scale == 0.0) continue;
    if (dx) ops::linear_backward_input(dx.rows(first, count), chunk, head.value, false, stream);
    if (head.grad) ops::linear_backward_weight(head.grad, chunk, x, stream);
  }
}

void lm_head_scores(TensorView losses, TensorView best, const LmHeadInput& in, const Weight& head,
                    TensorView logits, Stream& stream) {
  const std::int64_t num_tokens = in.x.dim(0);
  for (std::int64_t first = 0; first < num_tokens; first += lm_head_chunk) {
    const std::int64_t count = std::min(lm_head_chunk, num_tokens - first);
    const TensorView chunk = logits.rows(0, count);
    ops::linear_forward(chunk, in.x.rows(first, count), head.value, {}, stream);
    ops::cross_entropy(losses.rows(first, count), chunk, in.labels.rows(first, count), 0.0, stream);
    ops::argmax_rows(best.rows(first, count), chunk, stream);
  }
}

Flops lm_head_flops(const ModelConfig& config, std::int64_t num_tokens, bool weights) {
  const std::int64_t product = 2 * num_tokens * config.vocab_size * config.hidden_size;
  return {product, product * (weights ? 2 : 1)};
}

}  // namespace nmoe::model

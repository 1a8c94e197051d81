// The final projection with cross-entropy, chunk by chunk.
#include "neuronmoe/model/lm_head.hpp"

#include <algorithm>

#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::model {

void lm_head_loss(TensorView losses, TensorView dx, ConstTensorView x, const Weight& head,
                  ConstTensorView labels, double grad_scale, Arena& arena, Stream& stream) {
  const std::int64_t num_tokens = x.dim(0), vocab = head.value.dim(0);
  const Arena::Mark scratch = arena.mark();
  TensorView buffer = arena.take({std::min(lm_head_chunk, num_tokens), vocab}, x.dtype());
  for (std::int64_t first = 0; first < num_tokens; first += lm_head_chunk) {
    const std::int64_t count = std::min(lm_head_chunk, num_tokens - first);
    TensorView logits = buffer.rows(0, count);
    const ConstTensorView x_chunk = x.rows(first, count);
    ops::linear_forward(logits, x_chunk, head.value, {}, stream);
    ops::cross_entropy(losses.rows(first, count), logits, labels.rows(first, count), grad_scale, stream);
    if (grad_scale == 0.0) continue;
    if (dx) ops::linear_backward_input(dx.rows(first, count), logits, head.value, false, stream);
    if (head.grad) ops::linear_backward_weight(head.grad, logits, x_chunk, stream);
  }
  arena.rewind(scratch);
}

}  // namespace nmoe::model

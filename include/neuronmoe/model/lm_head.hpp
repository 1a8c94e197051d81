#pragma once
// Final projection fused with the cross-entropy, in chunks of rows: logits of a whole batch never exist
// (DESIGN 4.3).
#include <algorithm>

#include "neuronmoe/model/layer_pass.hpp"
#include "neuronmoe/model/parameter.hpp"

namespace nmoe::model {

/// Rows of logits alive at once. Fixed, so that results do not depend on memory or layout.
inline constexpr std::int64_t lm_head_chunk = 256;

/// Inside lm_head_loss.
struct LmHeadScratch {
  TensorView logits;  // [chunk, V]
};
template <typename F>
void for_each_buffer(LmHeadScratch& b, std::int64_t num_tokens, std::int64_t vocab_size, DType dtype, F&& f) {
  f(b.logits, Memory::scratch, {std::min(lm_head_chunk, num_tokens), vocab_size}, dtype);
}

struct LmHeadInput {
  ConstTensorView x;       ///< [T, D]
  ConstTensorView labels;  ///< [T] int32
  double grad_scale = 0.0;
};
/// losses[t] = −log p(labels[t]), 0 where ignored. With grad_scale != 0 also dx (=) and head.grad (+=), all
/// scaled by grad_scale; dx may be {} when nothing below needs it.
/// @param[out] losses [T] acc   @param[out] dx [T, D] or {}   @param head [V, D]   @param logits scratch
void lm_head_loss(TensorView losses, TensorView dx, const LmHeadInput& in, const Weight& head,
                  TensorView logits, Stream& stream);
/// Computes the losses alone, and where the logits of each row are largest (ops::argmax_rows).
/// @param[out] losses [T] acc   @param[out] best [T] int32
void lm_head_scores(TensorView losses, TensorView best, const LmHeadInput& in, const Weight& head,
                    TensorView logits, Stream& stream);
/// Returns the work on `num_tokens` tokens; backward always gives the gradient of the input.
Flops lm_head_flops(const ModelConfig& config, std::int64_t num_tokens, bool weights);

}  // namespace nmoe::model

#pragma once
// Final projection fused with the cross-entropy, in chunks of rows: logits of a whole batch never exist
// (DESIGN 4.3).
#include "neuronmoe/model/parameter.hpp"
#include "neuronmoe/tensor/stream.hpp"

namespace nmoe::model {

/// Rows of logits alive at once. Fixed, so that results do not depend on memory or layout.
inline constexpr std::int64_t lm_head_chunk = 256;

/// losses[t] = −log p(labels[t]), 0 where ignored. With grad_scale != 0 also dx (=) and head.grad (+=), all
/// scaled by grad_scale; dx may be {} when nothing below needs it.
/// @param[out] losses [T] acc   @param[out] dx [T, D] or {}   @param x [T, D]   @param head [V, D]   @param
/// labels [T] int32
void lm_head_loss(TensorView losses, TensorView dx, ConstTensorView x, const Weight& head,
                  ConstTensorView labels, double grad_scale, Arena& arena, Stream& stream);

}  // namespace nmoe::model

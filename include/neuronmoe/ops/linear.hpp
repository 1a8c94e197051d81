#pragma once
// Matrix products of the decoder: every projection, expert and the lm-head. Called by model.
//
// Shape letters (one legend for the project): T tokens, D hidden, F intermediate, E experts, K top_k, N
// routed rows, H query heads, G key/value heads, V vocabulary, S samples. "A" is an input width, "B" an
// output width here.
//
// Dtypes: x, w and y of one floating dtype; `acc` is accumulator_of(dtype): float64 for float64, else
// float32. Parameter gradients are always `acc` and are added to (`+=`); activation gradients are overwritten
// (`=`) unless `accumulate` is set. None of these is collective. All throw Error(internal) if shapes, dtypes
// or devices disagree, and Error(config) for CUDA tensors in a build without CUDA. Any extent may be 0.
#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops {

/// y = x·Wᵀ (+ bias). Accumulates in `acc`. y may have the dtype of x or be `acc` (router logits in float32).
/// @param[out] y [T, B]   @param x [T, A]   @param w [B, A]   @param bias [B] or {}
void linear_forward(TensorView y, ConstTensorView x, ConstTensorView w, ConstTensorView bias, Stream& stream);

/// dx (=|+=) dy·W. dy may have the dtype of x or be `acc`.   @param[out] dx [T, A]   @param dy [T, B] @param
/// w [B, A]
void linear_backward_input(TensorView dx, ConstTensorView dy, ConstTensorView w, bool accumulate,
                           Stream& stream);

/// dw += dyᵀ·x.   @param[in,out] dw [B, A] acc   @param dy [T, B]   @param x [T, A]
void linear_backward_weight(TensorView dw, ConstTensorView dy, ConstTensorView x, Stream& stream);

/// db += Σ_t dy, rows in ascending order.   @param[in,out] db [B] acc   @param dy [T, B]
void linear_backward_bias(TensorView db, ConstTensorView dy, Stream& stream);

}  // namespace nmoe::ops

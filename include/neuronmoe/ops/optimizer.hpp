#pragma once
// Element-wise kernels of the optimizer step (METHOD 7.1). Called by train on the slice a rank owns.
#include <cstdint>

#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops {

/// AdamW hyper-parameters of one step; `step` counts from 1 for the bias corrections.
struct AdamWStep {
  double learning_rate, beta1, beta2, eps, weight_decay;
  std::int64_t step;
  double grad_scale;  ///< clip factor, applied to the gradient first
};

/// Fused AdamW (Loshchilov & Hutter 2019, PyTorch's order of operations): decay, moments, bias corrections,
/// update of the master weight, and the model weight rounded from it.
/// @param[out] weight [n] model dtype   @param[in,out] master, exp_avg, exp_avg_sq [n] acc   @param grad [n]
/// acc
void adamw_update(TensorView weight, TensorView master, TensorView exp_avg, TensorView exp_avg_sq,
                  ConstTensorView grad, const AdamWStep& step, Stream& stream);

/// Block length of the squared norm: partial sums over fixed 4096-element blocks make it independent of
/// layout (DESIGN 6).
inline constexpr std::int64_t norm_block = 4096;
/// partials[b] = Σ x² over block b, float64, ascending order.   @param[out] partials [ceil(n / norm_block)]
/// float64
void sum_of_squares(TensorView partials, ConstTensorView x, Stream& stream);

}  // namespace nmoe::ops

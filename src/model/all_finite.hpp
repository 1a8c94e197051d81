#pragma once
// What weights of a file have to be. Used by who loads a checkpoint and by who exports one.
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// Whether a tensor on the host (float64, float32, bfloat16) holds neither infinity nor NaN.
bool all_finite(ConstTensorView values);

}  // namespace nmoe::model

#pragma once
// What kernels on a GPU need that is not linked. Called by app when it has chosen a GPU.

namespace nmoe::ops {

/// Opens cuBLASLt, which products on a GPU use; they would open it themselves, in the middle of a step.
/// @throws Error(config) naming what is missing, CUDA altogether included
void require_gpu_libraries();

}  // namespace nmoe::ops

#pragma once
// What kernels on a GPU need that is not linked. Called by app when it has chosen a GPU.
#include <cstdint>

namespace nmoe::ops {

/// Device memory of a stream's matrix products: what cuBLAS recommends for Hopper.
inline constexpr std::int64_t gemm_workspace_bytes = std::int64_t{32} << 20;

/// Opens cuBLASLt, which products on a GPU use; they would open it themselves, in the middle of a step.
/// @throws Error(config) naming what is missing, CUDA altogether included
void require_gpu_libraries();

}  // namespace nmoe::ops

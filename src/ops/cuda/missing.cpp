// Kernels that have no CUDA version yet say so; there is no silent detour over the host.
#include "../cuda_missing.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::ops {

void cuda_missing(const char* kernel) {
  throw Error(ErrorCode::config, fmt::format("{}: not yet on CUDA; use --device cpu", kernel));
}

}  // namespace nmoe::ops

// Linked instead of cuda/missing.cpp when no CUDA toolkit was found.
#include "../cuda_missing.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::ops {

void cuda_missing(const char* kernel) {
  throw Error(ErrorCode::config, fmt::format("{}: built without CUDA; use --device cpu", kernel));
}

}  // namespace nmoe::ops

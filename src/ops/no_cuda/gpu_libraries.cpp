// Linked instead of cuda/*.cu when no CUDA toolkit was found: an honest error, no silent fallback.
#include "neuronmoe/ops/gpu_libraries.hpp"

#include "neuronmoe/base/error.hpp"

namespace nmoe::ops {

void require_gpu_libraries() {
  throw Error(ErrorCode::config, "this program was built without CUDA; use --device cpu");
}

}  // namespace nmoe::ops

// Linked instead of cuda/device.cu when no CUDA toolkit was found: honest errors, no silent fallback.
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/tensor/stream.hpp"

namespace nmoe {

int num_cuda_devices() {
  return 0;
}
void* cuda_allocate(long long num_bytes) {
  NMOE_CHECK(false, config, "cannot allocate {} bytes on a GPU: built without CUDA; use --device cpu",
             num_bytes);
  return nullptr;
}
void cuda_free(void*) noexcept {}

}  // namespace nmoe

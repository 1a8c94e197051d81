// Device memory and count through the CUDA runtime.
#include <cuda_runtime.h>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/tensor/stream.hpp"

namespace nmoe {

int num_cuda_devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void* cuda_allocate(long long num_bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, static_cast<std::size_t>(num_bytes));
  NMOE_CHECK(status == cudaSuccess, config, "cudaMalloc of {} bytes: {}", num_bytes,
             cudaGetErrorString(status));
  const cudaError_t cleared = cudaMemset(pointer, 0, static_cast<std::size_t>(num_bytes));
  NMOE_CHECK(cleared == cudaSuccess, internal, "cudaMemset of {} bytes: {}", num_bytes,
             cudaGetErrorString(cleared));
  return pointer;
}

void cuda_free(void* pointer) noexcept {
  static_cast<void>(cudaFree(pointer));
}

}  // namespace nmoe

#pragma once
// The order in which work on a device happens. On the CPU every call has finished when it returns; on CUDA a
// Stream carries the cudaStream_t. Kernels and collectives take one; ExecutionContext owns it.
#include <cstdint>

#include "neuronmoe/tensor/dtype.hpp"

namespace nmoe {

class Stream {
 public:
  explicit Stream(Device device = Device::cpu, void* native = nullptr) : device_(device), native_(native) {}
  Device device() const { return device_; }
  void* native() const { return native_; }  ///< cudaStream_t, or null on the CPU
  /// Counts floating-point operations of matrix products and attention queued so far (2 per multiply-add).
  /// Kernels add, trainer reads.
  void add_flops(std::int64_t count) { flops_ += count; }
  std::int64_t flops() const { return flops_; }

 private:
  Device device_;
  void* native_;
  std::int64_t flops_ = 0;
};

/// Returns the number of CUDA devices this process sees; 0 in a build without CUDA.
int num_cuda_devices();
/// Allocates device memory of `num_bytes`, zeroed. @throws Error(config) in a build without CUDA.
void* cuda_allocate(long long num_bytes);
void cuda_free(void* pointer) noexcept;

}  // namespace nmoe

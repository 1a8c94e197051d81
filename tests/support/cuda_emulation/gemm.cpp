// Stands for gemm_cublaslt*.cpp: the plain product, which needs no library.
#include "../../../src/ops/cuda/gemm.hpp"

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/ops/gpu_libraries.hpp"
#include "neuronmoe/tensor/tensor.hpp"
#include "streams.hpp"

namespace nmoe::ops::cuda {

void gemm(const Gemm& call, const void* a, const void* b, void* c, const void* bias, Stream& stream) {
  NMOE_CHECK(stream.device() == Device::cuda, internal, "a product of CUDA tensors was given a CPU stream");
  emulation::queue_kernel(static_cast<CudaStream*>(stream.native()), [=] {
    const auto element = [](DType dtype, const void* data, std::int64_t at) {
      if (dtype == DType::float32) return static_cast<const float*>(data)[at];
      return static_cast<float>(static_cast<const bfloat16*>(data)[at]);
    };
    for (std::int64_t i = 0; i < call.m; ++i) {
      for (std::int64_t j = 0; j < call.n; ++j) {
        float sum = 0.0F;
        for (std::int64_t l = 0; l < call.k; ++l) {
          sum += element(call.input, a, call.transpose_a ? l * call.m + i : i * call.k + l) *
                 element(call.input, b, call.transpose_b ? j * call.k + l : l * call.n + j);
        }
        const std::int64_t at = i * call.n + j;
        if (bias != nullptr) sum += element(call.output, bias, j);
        if (call.accumulate) sum += element(call.output, c, at);
        if (call.output == DType::float32) {
          static_cast<float*>(c)[at] = sum;
        } else {
          static_cast<bfloat16*>(c)[at] = bfloat16(sum);
        }
      }
    }
  });
}

}  // namespace nmoe::ops::cuda

namespace nmoe::ops {

void require_gpu_libraries() {}

}  // namespace nmoe::ops

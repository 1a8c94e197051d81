// Squared norm over fixed blocks of 4096 elements, with the bits of the CPU: each block is one ascending
// float64 sum.
#include "device/elements.cuh"
#include "launch.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int threads = 128;

/// A warp sums 32 blocks, one per lane. The elements pass through shared memory 32 blocks x 32 elements at a
/// time, so that the loads of a warp are contiguous. Squares of float32 are exact in float64: fused or not,
/// the same bits.
template <typename T>
__global__ __launch_bounds__(threads) void sum_of_squares_kernel(double* partials, const T* x,
                                                                 std::int64_t count, std::int64_t blocks) {
  __shared__ float tiles[threads / 32][32][33];
  float(&tile)[32][33] = tiles[threadIdx.x / 32];
  const std::int64_t lane = threadIdx.x % 32,
                     first_block = (std::int64_t{blockIdx.x} * threads + threadIdx.x) - lane;
  double sum = 0.0;
  for (std::int64_t from = 0; from < norm_block; from += 32) {
#pragma unroll 8
    for (std::int64_t row = 0; row < 32; ++row) {
      const std::int64_t i = (first_block + row) * norm_block + from + lane;
      tile[row][lane] = i < count ? to_float(x[i]) : 0.0F;
    }
    __syncwarp();
#pragma unroll 8
    for (int i = 0; i < 32; ++i) {
      const auto value = static_cast<double>(tile[lane][i]);
      sum += value * value;
    }
    __syncwarp();
  }
  if (first_block + lane < blocks) partials[first_block + lane] = sum;
}

}  // namespace

void sum_of_squares(TensorView partials, ConstTensorView x, Stream& stream) {
  const std::int64_t blocks = partials.num_elements();
  visit_element("sum_of_squares", x.dtype(), [&]<typename T>() {
    launch(sum_of_squares_kernel<T>, grid_size(blocks_for(blocks, threads)), threads, 0, stream,
           partials.data<double>(), x.data<T>(), x.num_elements(), blocks);
  });
}

}  // namespace nmoe::ops::cuda

// Softmax cross-entropy of a chunk of logits, in place: one block per row, the row read twice and written
// once; and the column of the largest logit of a row.
#include "device/elements.cuh"
#include "launch.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int threads = 512;

/// Largest logit of a row and Σ e^(x − largest); every thread of the block gets them.
struct RowScale {
  float largest, total;
};

template <int N, typename T>
__device__ RowScale scale_of(const T* row, std::int64_t width) {
  float largest = -INFINITY, total = 0.0F;
  for (std::int64_t i = std::int64_t{threadIdx.x} * N; i < width; i += threads * N) {
    const auto x = load_floats<N>(row + i);
    float top = largest;
#pragma unroll
    for (int j = 0; j < N; ++j) top = x.values[j] > top ? x.values[j] : top;
    if (top > largest) {
      total *= expf(largest - top);
      largest = top;
    }
#pragma unroll
    for (int j = 0; j < N; ++j) total += x.values[j] == -INFINITY ? 0.0F : expf(x.values[j] - largest);
  }
  const float of_row = fold_block<threads>(largest, Maximum{});
  total *= largest == of_row ? 1.0F : expf(largest - of_row);
  return {of_row, fold_block<threads>(total)};
}

template <int N, typename T>
__global__ __launch_bounds__(threads) void cross_entropy_kernel(float* losses, T* logits,
                                                                const std::int32_t* labels,
                                                                std::int64_t width, float grad_scale) {
  T* row = logits + std::int64_t{blockIdx.x} * width;
  const std::int32_t label = labels[blockIdx.x];
  RowScale scale{0.0F, 1.0F};
  if (label >= 0) {
    scale = scale_of<N>(row, width);
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(scale.total) - (to_float(row[label]) - scale.largest);
    __syncthreads();  // the label's logit is read before it is overwritten
  } else if (threadIdx.x == 0) {
    losses[blockIdx.x] = 0.0F;
  }
  if (grad_scale == 0.0F) return;
  for (std::int64_t i = std::int64_t{threadIdx.x} * N; i < width; i += threads * N) {
    Pack<float, N> grad{};
    if (label >= 0) {
      grad = load_floats<N>(row + i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float p = expf(grad.values[j] - scale.largest) / scale.total;
        grad.values[j] = grad_scale * (p - (i + j == label ? 1.0F : 0.0F));
      }
    }
    store_floats<N>(row + i, grad);
  }
}

/// A logit and its column; the larger one wins, of equal ones the lower column.
struct Candidate {
  float logit;
  std::int32_t column;
};
struct Better {
  __device__ Candidate operator()(const Candidate& a, const Candidate& b) const {
    const bool second = b.logit > a.logit || (b.logit == a.logit && b.column < a.column);
    return second ? b : a;
  }
};

/// Folds the candidates of a block in a tree of shared memory, which warps' shuffles of a struct could not.
template <typename T>
__global__ __launch_bounds__(threads) void argmax_kernel(std::int32_t* columns, const T* logits,
                                                         std::int64_t width) {
  __shared__ Candidate best[threads];
  const T* row = logits + std::int64_t{blockIdx.x} * width;
  Candidate mine{-INFINITY, static_cast<std::int32_t>(width - 1)};
  for (std::int64_t i = threadIdx.x; i < width; i += threads)
    mine = Better{}(mine, Candidate{to_float(row[i]), static_cast<std::int32_t>(i)});
  best[threadIdx.x] = mine;
  for (unsigned half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) best[threadIdx.x] = Better{}(best[threadIdx.x], best[threadIdx.x + half]);
  }
  if (threadIdx.x == 0) columns[blockIdx.x] = best[0].column;
}

}  // namespace

void argmax_rows(TensorView columns, ConstTensorView logits, Stream& stream) {
  visit_element("argmax_rows", logits.dtype(), [&]<typename T>() {
    launch(argmax_kernel<T>, grid_size(logits.dim(0)), threads, 0, stream, columns.data<std::int32_t>(),
           logits.data<T>(), logits.dim(1));
  });
}

void cross_entropy(TensorView losses, TensorView logits, ConstTensorView labels, double grad_scale,
                   Stream& stream) {
  visit_element("cross_entropy", logits.dtype(), [&]<typename T>() {
    visit_pack<full_pack<T>>(fits_packs(logits.dim(1), {logits}), [&]<int n>() {
      launch(cross_entropy_kernel<n, T>, grid_size(logits.dim(0)), threads, 0, stream, losses.data<float>(),
             logits.data<T>(), labels.data<std::int32_t>(), logits.dim(1), static_cast<float>(grad_scale));
    });
  });
}

}  // namespace nmoe::ops::cuda

// RMSNorm and rotary embedding: one block per row of a norm, one thread per pack of rotated pairs. Bound by
// memory bandwidth; the second reading of a row comes from the cache.
#include <type_traits>

#include "columns.cuh"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int threads = 256;

/// With `add`, x += residual first.
template <bool add, int N, typename T>
__global__ __launch_bounds__(threads) void rms_norm_forward_kernel(T* y, float* inv_rms,
                                                                   std::conditional_t<add, T, const T>* x,
                                                                   const T* residual, const T* w,
                                                                   std::int64_t width, float eps) {
  const std::int64_t row = blockIdx.x;
  auto* from = x + row * width;
  float squares = 0.0F;
  for (std::int64_t i = std::int64_t{threadIdx.x} * N; i < width; i += threads * N) {
    auto values = load_floats<N>(from + i);
    if constexpr (add) {
      const auto more = load_floats<N>(residual + row * width + i);
#pragma unroll
      for (int j = 0; j < N; ++j)
        values.values[j] = to_float(from_float<T>(values.values[j] + more.values[j]));
      store_floats<N>(from + i, values);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) squares += values.values[j] * values.values[j];
  }
  const float inverse = 1.0F / sqrtf(fold_block<threads>(squares) / static_cast<float>(width) + eps);
  if (threadIdx.x == 0) inv_rms[row] = inverse;
  for (std::int64_t i = std::int64_t{threadIdx.x} * N; i < width; i += threads * N) {
    auto values = load_floats<N>(from + i);
    const auto weight = load_floats<N>(w + i);
#pragma unroll
    for (int j = 0; j < N; ++j) values.values[j] = values.values[j] * inverse * weight.values[j];
    store_floats<N>(y + row * width + i, values);
  }
}

/// dx = r (dy w − x r²/D Σ dy w x) (+ dx); dx may be dy.
template <int N, typename T>
__global__ __launch_bounds__(threads) void rms_norm_backward_kernel(T* dx, const T* dy, const T* x,
                                                                    const T* w, const float* inv_rms,
                                                                    std::int64_t width, bool accumulate) {
  const std::int64_t at = std::int64_t{blockIdx.x} * width;
  float products = 0.0F;
  for (std::int64_t i = std::int64_t{threadIdx.x} * N; i < width; i += threads * N) {
    const auto g = load_floats<N>(dy + at + i), weight = load_floats<N>(w + i),
               value = load_floats<N>(x + at + i);
#pragma unroll
    for (int j = 0; j < N; ++j) products += g.values[j] * weight.values[j] * value.values[j];
  }
  const float inverse = inv_rms[blockIdx.x];
  const float shrink = fold_block<threads>(products) * inverse * inverse / static_cast<float>(width);
  for (std::int64_t i = std::int64_t{threadIdx.x} * N; i < width; i += threads * N) {
    const auto g = load_floats<N>(dy + at + i), weight = load_floats<N>(w + i),
               value = load_floats<N>(x + at + i);
    Pack<float, N> grad{};
    if (accumulate) grad = load_floats<N>(dx + at + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      grad.values[j] += inverse * (g.values[j] * weight.values[j] - value.values[j] * shrink);
    }
    store_floats<N>(dx + at + i, grad);
  }
}

/// dy · (x · r): one row's share of a norm weight's gradient.
template <typename T>
struct NormWeightGradient {
  const T *dy, *x;
  const float* inv_rms;
  std::int64_t width;
  __device__ float value(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * width + column;
    return to_float(dy[at]) * (to_float(x[at]) * inv_rms[row]);
  }
};

/// Pack number `pack` of all pairs (i, i + half) of all heads.
template <int N, typename T>
__global__ __launch_bounds__(threads) void rope_kernel(T* x, const std::int32_t* positions, const float* cos,
                                                       const float* sin, float sign, std::int64_t heads,
                                                       std::int64_t half, std::int64_t packs) {
  const std::int64_t pack = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (pack >= packs) return;
  const std::int64_t per_head = half / N, head = pack / per_head, i = pack % per_head * N;
  const std::int64_t angle = positions[head / heads] * half + i;
  T* first = x + head * 2 * half + i;
  const auto a = load_floats<N>(first), b = load_floats<N>(first + half);
  Pack<float, N> rotated_a, rotated_b;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float c = cos[angle + j], s = sin[angle + j] * sign;
    rotated_a.values[j] = a.values[j] * c - b.values[j] * s;
    rotated_b.values[j] = b.values[j] * c + a.values[j] * s;
  }
  store_floats<N>(first, rotated_a);
  store_floats<N>(first + half, rotated_b);
}

}  // namespace

void rms_norm_forward(TensorView y, TensorView inv_rms, ConstTensorView x, ConstTensorView w, double eps,
                      Stream& stream) {
  const std::int64_t width = x.dim(1);
  visit_element("rms_norm_forward", x.dtype(), [&]<typename T>() {
    visit_pack<full_pack<T>>(fits_packs(width, {y, x, w}), [&]<int n>() {
      launch(rms_norm_forward_kernel<false, n, T>, grid_size(x.dim(0)), threads, 0, stream, y.data<T>(),
             inv_rms.data<float>(), x.data<T>(), static_cast<const T*>(nullptr), w.data<T>(), width,
             static_cast<float>(eps));
    });
  });
}

void add_rms_norm_forward(TensorView y, TensorView inv_rms, TensorView x, ConstTensorView residual,
                          ConstTensorView w, double eps, Stream& stream) {
  const std::int64_t width = x.dim(1);
  visit_element("add_rms_norm_forward", x.dtype(), [&]<typename T>() {
    visit_pack<full_pack<T>>(fits_packs(width, {y, x, residual, w}), [&]<int n>() {
      launch(rms_norm_forward_kernel<true, n, T>, grid_size(x.dim(0)), threads, 0, stream, y.data<T>(),
             inv_rms.data<float>(), x.data<T>(), residual.data<T>(), w.data<T>(), width,
             static_cast<float>(eps));
    });
  });
}

void rms_norm_backward(TensorView dx, TensorView dw, ConstTensorView dy, ConstTensorView x, ConstTensorView w,
                       ConstTensorView inv_rms, bool accumulate, Stream& stream) {
  const std::int64_t width = x.dim(1);
  visit_element("rms_norm_backward", x.dtype(), [&]<typename T>() {
    if (dw) {  // before dx: it may overwrite dy
      add_column_sums(dw.data<float>(),
                      NormWeightGradient<T>{dy.data<T>(), x.data<T>(), inv_rms.data<float>(), width},
                      x.dim(0), width, stream);
    }
    visit_pack<full_pack<T>>(fits_packs(width, {dx, dy, x, w}), [&]<int n>() {
      launch(rms_norm_backward_kernel<n, T>, grid_size(x.dim(0)), threads, 0, stream, dx.data<T>(),
             dy.data<T>(), x.data<T>(), w.data<T>(), inv_rms.data<float>(), width, accumulate);
    });
  });
}

void rope_apply(TensorView x, ConstTensorView positions, ConstTensorView cos, ConstTensorView sin,
                bool inverse, Stream& stream) {
  const std::int64_t heads = x.dim(1), half = x.dim(2) / 2;
  visit_element("rope_apply", x.dtype(), [&]<typename T>() {
    visit_pack<full_pack<T>>(fits_packs(half, {x}), [&]<int n>() {
      const std::int64_t packs = x.num_elements() / 2 / n;
      launch(rope_kernel<n, T>, grid_size(blocks_for(packs, threads)), threads, 0, stream, x.data<T>(),
             positions.data<std::int32_t>(), cos.data<float>(), sin.data<float>(), inverse ? -1.0F : 1.0F,
             heads, half, packs);
    });
  });
}

}  // namespace nmoe::ops::cuda

// Kernels that treat every element alike: SwiGLU, sums, casts, AdamW. Bound by memory bandwidth: 16 bytes per
// access per array where alignment allows, else (an optimizer slice that starts at an odd element) one
// element at a time.
#include <cmath>

#include "device/elements.cuh"
#include "launch.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr unsigned threads = 256;

/// f.at<N>(i) for packs of N elements; the last thread does what is left one by one.
template <int N, typename F>
__global__ __launch_bounds__(threads) void for_each_kernel(F f, std::int64_t count) {
  const std::int64_t pack = std::int64_t{blockIdx.x} * threads + threadIdx.x, packs = count / N;
  if (pack < packs) {
    f.template at<N>(pack * N);
  } else if (pack == packs) {
    for (std::int64_t i = packs * N; i < count; ++i) f.template at<1>(i);
  }
}

template <int N, typename F>
void for_each(F f, std::int64_t count, std::initializer_list<ConstTensorView> tensors, Stream& stream) {
  visit_pack<N>(fits_packs(16, tensors), [&]<int n>() {
    if (count > 0)
      launch(for_each_kernel<n, F>, grid_size(blocks_for(count / n + 1, threads)), threads, 0, stream, f,
             count);
  });
}

template <typename T>
struct SwigluForward {
  T* h;
  const T *gate, *up;
  template <int N>
  __device__ void at(std::int64_t i) const {
    const auto g = load_floats<N>(gate + i), u = load_floats<N>(up + i);
    Pack<float, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) result.values[j] = g.values[j] / (1.0F + expf(-g.values[j])) * u.values[j];
    store_floats<N>(h + i, result);
  }
};

template <typename T>
struct SwigluBackward {
  T *dgate, *dup;
  const T *dh, *gate, *up;
  template <int N>
  __device__ void at(std::int64_t i) const {
    const auto grad = load_floats<N>(dh + i), g = load_floats<N>(gate + i), u = load_floats<N>(up + i);
    Pack<float, N> to_gate, to_up;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float x = g.values[j], sigma = 1.0F / (1.0F + expf(-x));
      to_gate.values[j] = grad.values[j] * u.values[j] * sigma * (1.0F + x * (1.0F - sigma));
      to_up.values[j] = grad.values[j] * x * sigma;
    }
    store_floats<N>(dgate + i, to_gate);
    store_floats<N>(dup + i, to_up);
  }
};

template <typename Y, typename X>
struct AddInplace {
  Y* y;
  const X* x;
  template <int N>
  __device__ void at(std::int64_t i) const {
    auto sum = load_floats<N>(y + i);
    const auto more = load_floats<N>(x + i);
#pragma unroll
    for (int j = 0; j < N; ++j) sum.values[j] += more.values[j];
    store_floats<N>(y + i, sum);
  }
};

template <typename To, typename From>
struct Cast {
  To* to;
  const From* from;
  template <int N>
  __device__ void at(std::int64_t i) const {
    store_floats<N>(to + i, load_floats<N>(from + i));
  }
};

template <typename T>
struct Fill {
  T* x;
  float value;
  template <int N>
  __device__ void at(std::int64_t i) const {
    Pack<float, N> pack;
#pragma unroll
    for (int j = 0; j < N; ++j) pack.values[j] = value;
    store_floats<N>(x + i, pack);
  }
};

/// Element i is unit i mod U of row i / U.
template <typename T>
struct ReplaceColumns {
  T* y;
  const std::int32_t* columns;
  const float* values;
  std::int64_t width, num_columns;
  template <int N>
  __device__ void at(std::int64_t i) const {
    static_assert(N == 1);
    const std::int64_t row = i / num_columns, u = i % num_columns;
    y[row * width + columns[u]] = from_float<T>(values[u]);
  }
};

/// Scalars of one AdamW step, rounded once on the host as the CPU does it.
struct AdamWScalars {
  float decay, step_size, root_correction, blend1, blend2, beta2, eps, grad_scale;
};

template <typename T>
struct AdamW {
  T* weight;
  float *master, *exp_avg, *exp_avg_sq;
  const float* grad;
  AdamWScalars s;
  template <int N>
  __device__ void at(std::int64_t i) const {
    auto w = load_pack<N>(master + i), m = load_pack<N>(exp_avg + i), v = load_pack<N>(exp_avg_sq + i);
    const auto g = load_pack<N>(grad + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float scaled = g.values[j] * s.grad_scale;
      m.values[j] += (scaled - m.values[j]) * s.blend1;
      v.values[j] = v.values[j] * s.beta2 + s.blend2 * scaled * scaled;
      w.values[j] = w.values[j] * s.decay -
                    s.step_size * (m.values[j] / (sqrtf(v.values[j]) / s.root_correction + s.eps));
    }
    store_pack<N>(master + i, w);
    store_pack<N>(exp_avg + i, m);
    store_pack<N>(exp_avg_sq + i, v);
    store_floats<N>(weight + i, w);
  }
};

}  // namespace

void swiglu_forward(TensorView h, ConstTensorView gate, ConstTensorView up, Stream& stream) {
  visit_element("swiglu_forward", h.dtype(), [&]<typename T>() {
    for_each<full_pack<T>>(SwigluForward<T>{h.data<T>(), gate.data<T>(), up.data<T>()}, h.num_elements(),
                           {h, gate, up}, stream);
  });
}

void swiglu_backward(TensorView dgate, TensorView dup, ConstTensorView dh, ConstTensorView gate,
                     ConstTensorView up, Stream& stream) {
  visit_element("swiglu_backward", dh.dtype(), [&]<typename T>() {
    for_each<full_pack<T>>(
        SwigluBackward<T>{dgate.data<T>(), dup.data<T>(), dh.data<T>(), gate.data<T>(), up.data<T>()},
        dh.num_elements(), {dgate, dup, dh, gate, up}, stream);
  });
}

void add_inplace(TensorView y, ConstTensorView x, Stream& stream) {
  visit_element("add_inplace", y.dtype(), [&]<typename Y>() {
    visit_element("add_inplace", x.dtype(), [&]<typename X>() {
      for_each<std::max(full_pack<Y>, full_pack<X>)>(AddInplace<Y, X>{y.data<Y>(), x.data<X>()},
                                                     y.num_elements(), {y, x}, stream);
    });
  });
}

void cast(TensorView dst, ConstTensorView src, Stream& stream) {
  visit_element("cast", dst.dtype(), [&]<typename To>() {
    visit_element("cast", src.dtype(), [&]<typename From>() {
      for_each<std::max(full_pack<To>, full_pack<From>)>(Cast<To, From>{dst.data<To>(), src.data<From>()},
                                                         dst.num_elements(), {dst, src}, stream);
    });
  });
}

void fill(TensorView x, double value, Stream& stream) {
  visit_element("fill", x.dtype(), [&]<typename T>() {
    for_each<full_pack<T>>(Fill<T>{x.data<T>(), static_cast<float>(value)}, x.num_elements(), {x}, stream);
  });
}

void replace_columns(TensorView y, ConstTensorView columns, ConstTensorView values, Stream& stream) {
  visit_element("replace_columns", y.dtype(), [&]<typename T>() {
    for_each<1>(ReplaceColumns<T>{y.data<T>(), columns.data<std::int32_t>(), values.data<float>(), y.dim(1),
                                  columns.num_elements()},
                y.dim(0) * columns.num_elements(), {y, columns, values}, stream);
  });
}

void adamw_update(TensorView weight, TensorView master, TensorView exp_avg, TensorView exp_avg_sq,
                  ConstTensorView grad, const AdamWStep& step, Stream& stream) {
  const auto count = static_cast<double>(step.step);
  const AdamWScalars scalars{static_cast<float>(1.0 - step.learning_rate * step.weight_decay),
                             static_cast<float>(step.learning_rate / (1.0 - std::pow(step.beta1, count))),
                             static_cast<float>(std::sqrt(1.0 - std::pow(step.beta2, count))),
                             static_cast<float>(1.0 - step.beta1),
                             static_cast<float>(1.0 - step.beta2),
                             static_cast<float>(step.beta2),
                             static_cast<float>(step.eps),
                             static_cast<float>(step.grad_scale)};
  visit_element("adamw_update", weight.dtype(), [&]<typename T>() {
    for_each<4>(AdamW<T>{weight.data<T>(), master.data<float>(), exp_avg.data<float>(),
                         exp_avg_sq.data<float>(), grad.data<float>(), scalars},
                weight.num_elements(), {weight, master, exp_avg, exp_avg_sq, grad}, stream);
  });
}

}  // namespace nmoe::ops::cuda

// Kernels that work element by element: SwiGLU, sums, conversions, AdamW, squared norms.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "floating.hpp"
#include "lanes.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "threads.hpp"

namespace nmoe::ops::cpu {

namespace {

// Cuts [0, count) into equal blocks and runs f(first, size) on each.
template <typename F>
void parallel_blocks(std::int64_t count, F&& f) {
  constexpr std::int64_t block = 8192;
  parallel_for((count + block - 1) / block, count,
               [&](std::int64_t b) { f(b * block, std::min(block, count - b * block)); });
}

}  // namespace

void swiglu_forward(TensorView h, ConstTensorView gate, ConstTensorView up, Stream& stream) {
  if (h.dtype() == DType::float64) return reference::swiglu_forward(h, gate, up, stream);
  visit_fast(h.dtype(), [&]<typename T>() {
    parallel_blocks(h.num_elements(), [&](std::int64_t first, std::int64_t size) {
      const T *pg = gate.data<T>() + first, *pu = up.data<T>() + first;
      T* ph = h.data<T>() + first;
      for_lanes(size, [&](std::int64_t i, auto n) {
        const Lanes g = load_n(pg + i, n);
        store_n(ph + i, g / (1.0F + exp(-g)) * load_n(pu + i, n), n);
      });
    });
  });
}

void swiglu_backward(TensorView dgate, TensorView dup, ConstTensorView dh, ConstTensorView gate,
                     ConstTensorView up, Stream& stream) {
  if (dh.dtype() == DType::float64) return reference::swiglu_backward(dgate, dup, dh, gate, up, stream);
  visit_fast(dh.dtype(), [&]<typename T>() {
    parallel_blocks(dh.num_elements(), [&](std::int64_t first, std::int64_t size) {
      const T *pd = dh.data<T>() + first, *pg = gate.data<T>() + first, *pu = up.data<T>() + first;
      T *out_gate = dgate.data<T>() + first, *out_up = dup.data<T>() + first;
      for_lanes(size, [&](std::int64_t i, auto n) {
        const Lanes grad = load_n(pd + i, n), g = load_n(pg + i, n), u = load_n(pu + i, n);
        const Lanes sigma = 1.0F / (1.0F + exp(-g));
        store_n(out_gate + i, grad * u * sigma * (1.0F + g * (1.0F - sigma)), n);
        store_n(out_up + i, grad * g * sigma, n);
      });
    });
  });
}

void add_inplace(TensorView y, ConstTensorView x, Stream& stream) {
  if (y.dtype() == DType::float64 || x.dtype() == DType::float64) return reference::add_inplace(y, x, stream);
  visit_fast(y.dtype(), [&]<typename Y>() {
    visit_fast(x.dtype(), [&]<typename X>() {
      parallel_blocks(y.num_elements(), [&](std::int64_t first, std::int64_t size) {
        Y* py = y.data<Y>() + first;
        const X* px = x.data<X>() + first;
        for_lanes(size,
                  [&](std::int64_t i, auto n) { store_n(py + i, load_n(py + i, n) + load_n(px + i, n), n); });
      });
    });
  });
}

void cast(TensorView dst, ConstTensorView src, Stream& stream) {
  if (dst.dtype() == DType::float64 || src.dtype() == DType::float64)
    return reference::cast(dst, src, stream);
  visit_fast(dst.dtype(), [&]<typename To>() {
    visit_fast(src.dtype(), [&]<typename From>() {
      parallel_blocks(dst.num_elements(), [&](std::int64_t first, std::int64_t size) {
        To* out = dst.data<To>() + first;
        const From* in = src.data<From>() + first;
        for_lanes(size, [&](std::int64_t i, auto n) { store_n(out + i, load_n(in + i, n), n); });
      });
    });
  });
}

void fill(TensorView x, double value, Stream&) {
  visit_floating(x.dtype(), [&]<typename T>() {
    const T element = convert<T>(value);
    parallel_blocks(x.num_elements(), [&](std::int64_t first, std::int64_t size) {
      std::fill_n(x.data<T>() + first, size, element);
    });
  });
}

void adamw_update(TensorView weight, TensorView master, TensorView exp_avg, TensorView exp_avg_sq,
                  ConstTensorView grad, const AdamWStep& step, Stream& stream) {
  if (weight.dtype() == DType::float64) {
    return reference::adamw_update(weight, master, exp_avg, exp_avg_sq, grad, step, stream);
  }
  const auto count = static_cast<double>(step.step);
  const auto decay = static_cast<float>(1.0 - step.learning_rate * step.weight_decay);
  const auto step_size = static_cast<float>(step.learning_rate / (1.0 - std::pow(step.beta1, count)));
  const auto root_correction = static_cast<float>(std::sqrt(1.0 - std::pow(step.beta2, count)));
  const auto blend1 = static_cast<float>(1.0 - step.beta1), blend2 = static_cast<float>(1.0 - step.beta2);
  const auto beta2 = static_cast<float>(step.beta2), eps = static_cast<float>(step.eps);
  const auto grad_scale = static_cast<float>(step.grad_scale);
  visit_fast(weight.dtype(), [&]<typename T>() {
    parallel_blocks(weight.num_elements(), [&](std::int64_t first, std::int64_t size) {
      float *w = master.data<float>() + first, *m = exp_avg.data<float>() + first;
      float* v = exp_avg_sq.data<float>() + first;
      const float* g = grad.data<float>() + first;
      T* out = weight.data<T>() + first;
      for_lanes(size, [&](std::int64_t i, auto n) {
        const Lanes scaled = load_n(g + i, n) * grad_scale;
        Lanes mean = load_n(m + i, n), square = load_n(v + i, n);
        mean += (scaled - mean) * blend1;
        square = square * beta2 + blend2 * scaled * scaled;
        const Lanes value =
            load_n(w + i, n) * decay - step_size * (mean / (square_root(square) / root_correction + eps));
        store_n(m + i, mean, n);
        store_n(v + i, square, n);
        store_n(w + i, value, n);
        store_n(out + i, value, n);
      });
    });
  });
}

// One sum at a time waits for each addition; eight blocks side by side keep the adder busy, each in its own
// ascending order. Squares of float32 are exact in float64, so fused or not this gives the bits of the plain
// loop; squares of float64 are not, so those take the plain loop everywhere.
void sum_of_squares(TensorView partials, ConstTensorView x, Stream& stream) {
  if (x.dtype() == DType::float64) return reference::sum_of_squares(partials, x, stream);
  constexpr std::int64_t abreast = 8;
  const std::int64_t whole = x.num_elements() / norm_block, groups = whole / abreast;
  visit_fast(x.dtype(), [&]<typename T>() {
    parallel_for(groups, groups * abreast * norm_block, [&](std::int64_t group) {
      const T* p = x.data<T>() + group * abreast * norm_block;
      double sums[abreast] = {};
      for (std::int64_t i = 0; i < norm_block; ++i) {
        for (std::int64_t b = 0; b < abreast; ++b) {
          const auto value = static_cast<double>(to_acc(p[b * norm_block + i]));
          sums[b] += value * value;
        }
      }
      std::copy_n(sums, abreast, partials.data<double>() + group * abreast);
    });
    const std::int64_t done = groups * abreast;
    reference::sum_of_squares(
        {partials.data<double>() + done, DType::float64, {partials.num_elements() - done}},
        {x.data<T>() + done * norm_block, x.dtype(), {x.num_elements() - done * norm_block}}, stream);
  });
}

}  // namespace nmoe::ops::cpu

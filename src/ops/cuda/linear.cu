// The products of linear layers. Where cuBLASLt has no such combination of types (float32 gradients of a
// bfloat16 router), the small operand is widened or the result is rounded by one more pass.
#include "columns.cuh"
#include "gemm.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr unsigned threads = 256;

/// The same matrix as float32, in scratch memory of this stream.
ConstTensorView widened(ConstTensorView x, Stream& stream) {
  if (x.dtype() == DType::float32) return x;
  const TensorView wide(scratch<float>(stream, Scratch::widened, x.num_elements()), DType::float32, x.shape(),
                        Device::cuda);
  cast(wide, x, stream);
  return wide;
}

template <typename Y, typename B>
__global__ __launch_bounds__(threads) void add_bias_kernel(Y* y, const B* bias, std::int64_t count,
                                                           std::int64_t width) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) y[i] = from_float<Y>(to_float(y[i]) + to_float(bias[i % width]));
}

void add_bias(TensorView y, ConstTensorView bias, Stream& stream) {
  visit_element("linear_forward", y.dtype(), [&]<typename Y>() {
    visit_element("linear_forward", bias.dtype(), [&]<typename B>() {
      launch(add_bias_kernel<Y, B>, grid_size(blocks_for(y.num_elements(), threads)), threads, 0, stream,
             y.data<Y>(), bias.data<B>(), y.num_elements(), y.dim(1));
    });
  });
}

template <typename T>
struct Elements {
  const T* x;
  std::int64_t width;
  __device__ float value(std::int64_t row, std::int64_t column) const {
    return to_float(x[row * width + column]);
  }
};

}  // namespace

void linear_forward(TensorView y, ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                    Stream& stream) {
  expect_element("linear_forward", x.dtype());
  const bool fused = bias && bias.dtype() == y.dtype() && x.dim(1) > 0;
  gemm({x.dim(0), w.dim(0), x.dim(1), false, true, x.dtype(), y.dtype(), false}, x.raw(), w.raw(), y.raw(),
       fused ? bias.raw() : nullptr, stream);
  if (bias && !fused) add_bias(y, bias, stream);
}

void linear_backward_input(TensorView dx, ConstTensorView dy, ConstTensorView w, bool accumulate,
                           Stream& stream) {
  expect_element("linear_backward_input", w.dtype());
  const Gemm call{dy.dim(0), w.dim(1), w.dim(0), false, false, dy.dtype(), dx.dtype(), accumulate};
  if (dy.dtype() == DType::bfloat16 || dx.dtype() == DType::float32) {
    gemm(call, dy.raw(), dy.dtype() == w.dtype() ? w.raw() : widened(w, stream).raw(), dx.raw(), nullptr,
         stream);
    return;
  }
  // float32 gradients into a bfloat16 dx: sums in scratch memory, rounded once.
  const TensorView sums(scratch<float>(stream, Scratch::rounded, dx.num_elements()), DType::float32,
                        dx.shape(), Device::cuda);
  gemm({call.m, call.n, call.k, false, false, DType::float32, DType::float32, false}, dy.raw(),
       widened(w, stream).raw(), sums.raw(), nullptr, stream);
  accumulate ? add_inplace(dx, sums, stream) : cast(dx, sums, stream);
}

void linear_backward_weight(TensorView dw, ConstTensorView dy, ConstTensorView x, Stream& stream) {
  expect_element("linear_backward_weight", x.dtype());
  const ConstTensorView input = dy.dtype() == x.dtype() ? x : widened(x, stream);
  gemm({dy.dim(1), x.dim(1), x.dim(0), true, false, dy.dtype(), DType::float32, true}, dy.raw(), input.raw(),
       dw.raw(), nullptr, stream);
}

void linear_backward_bias(TensorView db, ConstTensorView dy, Stream& stream) {
  visit_element("linear_backward_bias", dy.dtype(), [&]<typename T>() {
    add_column_sums(db.data<float>(), Elements<T>{dy.data<T>(), dy.dim(1)}, dy.dim(0), dy.dim(1), stream);
  });
}

}  // namespace nmoe::ops::cuda

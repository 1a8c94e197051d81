// Linear layers: arguments checked, then the kernel of the device.
#include "check.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops {

void linear_forward(TensorView y, ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                    Stream& stream) {
  constexpr const char* name = "linear_forward";
  expect_floating(name, "x", x, 2);
  expect_floating(name, "w", w, 2);
  expect(name, "w", w, {w.dim(0), x.dim(1)}, x.dtype());
  expect_or_acc(name, "y", y, {x.dim(0), w.dim(0)}, x.dtype());
  if (bias) expect(name, "bias", bias, {w.dim(0)}, x.dtype());
  stream.add_flops(2 * x.dim(0) * w.num_elements());
  if (on_cuda(name, stream, {y, x, w, bias}))
    if constexpr (with_cuda) return cuda::linear_forward(y, x, w, bias, stream);
  cpu::linear_forward(y, x, w, bias, stream);
}

void linear_backward_input(TensorView dx, ConstTensorView dy, ConstTensorView w, bool accumulate,
                           Stream& stream) {
  constexpr const char* name = "linear_backward_input";
  expect_floating(name, "dy", dy, 2);
  expect_floating(name, "w", w, 2);
  expect_or_acc(name, "dy", dy, {dy.dim(0), w.dim(0)}, w.dtype());
  expect_or_acc(name, "dx", dx, {dy.dim(0), w.dim(1)}, w.dtype());
  stream.add_flops(2 * dy.dim(0) * w.num_elements());
  if (on_cuda(name, stream, {dx, dy, w}))
    if constexpr (with_cuda) return cuda::linear_backward_input(dx, dy, w, accumulate, stream);
  cpu::linear_backward_input(dx, dy, w, accumulate, stream);
}

void linear_backward_weight(TensorView dw, ConstTensorView dy, ConstTensorView x, Stream& stream) {
  constexpr const char* name = "linear_backward_weight";
  expect_floating(name, "dy", dy, 2);
  expect_floating(name, "x", x, 2);
  expect_or_acc(name, "dy", dy, {x.dim(0), dy.dim(1)}, x.dtype());
  expect(name, "dw", dw, {dy.dim(1), x.dim(1)}, accumulator_of(x.dtype()));
  stream.add_flops(2 * x.dim(0) * dw.num_elements());
  if (on_cuda(name, stream, {dw, dy, x}))
    if constexpr (with_cuda) return cuda::linear_backward_weight(dw, dy, x, stream);
  cpu::linear_backward_weight(dw, dy, x, stream);
}

void linear_backward_bias(TensorView db, ConstTensorView dy, Stream& stream) {
  constexpr const char* name = "linear_backward_bias";
  expect_floating(name, "dy", dy, 2);
  expect(name, "db", db, {dy.dim(1)}, accumulator_of(dy.dtype()));
  if (on_cuda(name, stream, {db, dy}))
    if constexpr (with_cuda) return cuda::linear_backward_bias(db, dy, stream);
  cpu::linear_backward_bias(db, dy, stream);
}

}  // namespace nmoe::ops

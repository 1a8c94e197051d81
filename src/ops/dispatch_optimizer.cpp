// The optimizer step: arguments checked, then the kernel of the device.
#include "check.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops {

void adamw_update(TensorView weight, TensorView master, TensorView exp_avg, TensorView exp_avg_sq,
                  ConstTensorView grad, const AdamWStep& step, Stream& stream) {
  constexpr const char* name = "adamw_update";
  expect_floating(name, "weight", weight, 1);
  const DType acc = accumulator_of(weight.dtype());
  expect(name, "master", master, weight.shape(), acc);
  expect(name, "exp_avg", exp_avg, weight.shape(), acc);
  expect(name, "exp_avg_sq", exp_avg_sq, weight.shape(), acc);
  expect(name, "grad", grad, weight.shape(), acc);
  NMOE_CHECK(step.step >= 1, internal, "{}: step {} (counts from 1)", name, step.step);
  if (on_cuda(name, stream, {weight, master, exp_avg, exp_avg_sq, grad}))
    if constexpr (with_cuda)
      return cuda::adamw_update(weight, master, exp_avg, exp_avg_sq, grad, step, stream);
  cpu::adamw_update(weight, master, exp_avg, exp_avg_sq, grad, step, stream);
}

void sum_of_squares(TensorView partials, ConstTensorView x, Stream& stream) {
  constexpr const char* name = "sum_of_squares";
  expect_floating(name, "x", x, x.shape().rank());
  expect(name, "partials", partials, {(x.num_elements() + norm_block - 1) / norm_block}, DType::float64);
  if (on_cuda(name, stream, {partials, x}))
    if constexpr (with_cuda) return cuda::sum_of_squares(partials, x, stream);
  cpu::sum_of_squares(partials, x, stream);
}

}  // namespace nmoe::ops

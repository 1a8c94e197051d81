// Argument checks shared by the dispatchers.
#include "check.hpp"

namespace nmoe::ops {

bool is_floating(DType dtype) {
  return dtype == DType::float64 || dtype == DType::float32 || dtype == DType::bfloat16;
}

void expect(const char* kernel, const char* name, ConstTensorView tensor, const Shape& shape, DType dtype) {
  NMOE_CHECK(bool(tensor), internal, "{}: {} was not given", kernel, name);
  NMOE_CHECK(tensor.shape() == shape, internal, "{}: {} is {}, expected {}", kernel, name,
             tensor.shape().to_string(), shape.to_string());
  NMOE_CHECK(tensor.dtype() == dtype, internal, "{}: {} is {}, expected {}", kernel, name,
             name_of(tensor.dtype()), name_of(dtype));
}

void expect_floating(const char* kernel, const char* name, ConstTensorView tensor, int rank) {
  NMOE_CHECK(bool(tensor), internal, "{}: {} was not given", kernel, name);
  NMOE_CHECK(tensor.shape().rank() == rank, internal, "{}: {} is {}, expected {} axes", kernel, name,
             tensor.shape().to_string(), rank);
  NMOE_CHECK(is_floating(tensor.dtype()), internal, "{}: {} is {}, expected a floating type", kernel, name,
             name_of(tensor.dtype()));
}

void expect_or_acc(const char* kernel, const char* name, ConstTensorView tensor, const Shape& shape,
                   DType dtype) {
  const bool is_acc = bool(tensor) && tensor.dtype() == accumulator_of(dtype);
  expect(kernel, name, tensor, shape, is_acc ? accumulator_of(dtype) : dtype);
}

bool on_cuda(const char* kernel, const Stream& stream, std::initializer_list<ConstTensorView> tensors) {
  const ConstTensorView* first = nullptr;
  for (const ConstTensorView& tensor : tensors) {
    if (!tensor) continue;
    if (first == nullptr) first = &tensor;
    NMOE_CHECK(tensor.device() == first->device(), internal, "{}: tensors on {} and on {}", kernel,
               name_of(first->device()), name_of(tensor.device()));
  }
  NMOE_CHECK(first == nullptr || first->device() == stream.device(), internal,
             "{}: tensors on {}, stream on {}", kernel, name_of(first->device()), name_of(stream.device()));
  if (stream.device() == Device::cpu) return false;
  NMOE_CHECK(with_cuda, config, "{}: built without CUDA; use --device cpu", kernel);
  return true;
}

void expect_range(const char* kernel, const char* name, ConstTensorView values, std::int64_t low,
                  std::int64_t high) {
  if (values.device() == Device::cuda) return;  // whoever put them there has looked
  const auto* p = values.data<std::int32_t>();
  for (std::int64_t i = 0; i < values.num_elements(); ++i) {
    NMOE_CHECK(p[i] >= low && p[i] < high, bad_data, "{}: {}[{}] = {} is outside [{}, {}]", kernel, name, i,
               p[i], low, high - 1);
  }
}

}  // namespace nmoe::ops

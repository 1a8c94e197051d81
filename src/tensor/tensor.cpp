// Tensors, their shapes and arenas.
#include "neuronmoe/tensor/tensor.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "neuronmoe/tensor/stream.hpp"

namespace nmoe {

namespace {
constexpr std::size_t alignment = 64;
constexpr std::size_t round_up(std::size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}
}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> extents) {
  NMOE_CHECK(extents.size() <= extents_.size(), internal, "a shape has at most 4 axes, got {}",
             extents.size());
  for (const std::int64_t extent : extents) {
    NMOE_CHECK(extent >= 0, internal, "negative extent {}", extent);
    extents_[static_cast<std::size_t>(rank_++)] = extent;
  }
}

std::int64_t Shape::num_elements() const {
  std::int64_t count = 1;
  for (int axis = 0; axis < rank_; ++axis) count *= (*this)[axis];
  return count;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int axis = 0; axis < rank_; ++axis) text += fmt::format("{}{}", axis > 0 ? ", " : "", (*this)[axis]);
  return text + "]";
}

template <typename Void>
BasicTensorView<Void> BasicTensorView<Void>::rows(std::int64_t first, std::int64_t count) const {
  NMOE_CHECK(shape_.rank() >= 1 && first >= 0 && count >= 0 && first + count <= shape_[0], internal,
             "rows [{}, {}) of {}", first, first + count, shape_.to_string());
  const std::int64_t row = shape_[0] > 0 ? shape_.num_elements() / shape_[0] : 0;
  Shape shape;
  switch (shape_.rank()) {
    case 1:
      shape = {count};
      break;
    case 2:
      shape = {count, shape_[1]};
      break;
    case 3:
      shape = {count, shape_[1], shape_[2]};
      break;
    default:
      shape = {count, shape_[1], shape_[2], shape_[3]};
      break;
  }
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  return {static_cast<Byte*>(data_) + first * row * size_of(dtype_), dtype_, shape, device_};
}
template class BasicTensorView<void>;
template class BasicTensorView<const void>;

void FreeMemory::operator()(void* p) const noexcept {
  if (device == Device::cuda) {
    cuda_free(p);
  } else {
    std::free(p);
  }
}

Tensor::Tensor(Shape shape, DType dtype, Device device) : shape_(shape), dtype_(dtype), device_(device) {
  const std::size_t bytes =
      round_up(static_cast<std::size_t>(std::max<std::int64_t>(1, shape.num_elements() * size_of(dtype))));
  void* p = device == Device::cuda ? cuda_allocate(static_cast<long long>(bytes))
                                   : std::aligned_alloc(alignment, bytes);
  NMOE_CHECK(p != nullptr, internal, "out of memory: {} bytes for a tensor {}", bytes, shape.to_string());
  if (device == Device::cpu) std::memset(p, 0, bytes);
  memory_ = std::unique_ptr<void, FreeMemory>(p, FreeMemory{device});
}

void Tensor::zero() {
  NMOE_CHECK(device_ == Device::cpu, internal, "zero() is for CPU tensors; use ops::fill");
  std::memset(memory_.get(), 0, static_cast<std::size_t>(num_elements() * size_of(dtype_)));
}

template <typename T>
Tensor make_tensor(const std::vector<T>& values, Shape shape) {
  NMOE_CHECK(static_cast<std::int64_t>(values.size()) == shape.num_elements(), internal,
             "{} values for shape {}", values.size(), shape.to_string());
  Tensor tensor(shape, dtype_of<T>::value);
  std::copy(values.begin(), values.end(), tensor.data<T>());
  return tensor;
}
template Tensor make_tensor<double>(const std::vector<double>&, Shape);
template Tensor make_tensor<float>(const std::vector<float>&, Shape);
template Tensor make_tensor<bfloat16>(const std::vector<bfloat16>&, Shape);
template Tensor make_tensor<std::int32_t>(const std::vector<std::int32_t>&, Shape);
template Tensor make_tensor<std::int64_t>(const std::vector<std::int64_t>&, Shape);
template Tensor make_tensor<std::uint8_t>(const std::vector<std::uint8_t>&, Shape);

std::int64_t Arena::bytes_of(const Shape& shape, DType dtype) {
  const std::int64_t bytes = std::max<std::int64_t>(1, shape.num_elements() * size_of(dtype));
  return static_cast<std::int64_t>(round_up(static_cast<std::size_t>(bytes)));
}

TensorView Arena::take(Shape shape, DType dtype) {
  constexpr std::size_t block_bytes = std::size_t{16} << 20;
  const auto bytes = static_cast<std::size_t>(bytes_of(shape, dtype));
  while (block_ < blocks_.size() &&
         offset_ + bytes > static_cast<std::size_t>(blocks_[block_].num_elements())) {
    ++block_;
    offset_ = 0;
  }
  if (block_ == blocks_.size()) {
    blocks_.emplace_back(Shape{static_cast<std::int64_t>(std::max(bytes, block_bytes))}, DType::uint8,
                         device_);
    offset_ = 0;
  }
  void* p = static_cast<char*>(blocks_[block_].view().raw()) + offset_;
  offset_ += bytes;
  in_use_ += static_cast<std::int64_t>(bytes);
  peak_ = std::max(peak_, in_use_);
  return {p, dtype, shape, device_};
}

void Arena::reserve(std::int64_t bytes) {
  reset();
  if (!blocks_.empty() && blocks_.front().num_elements() >= bytes) return;
  blocks_.clear();
  blocks_.emplace_back(Shape{bytes}, DType::uint8, device_);
}

void Arena::reset() {
  block_ = offset_ = 0;
  in_use_ = 0;
}

}  // namespace nmoe

#pragma once
// Dense row-major arrays: `Tensor` always owns, `TensorView` never does. Every kernel, collective and file
// call takes views. `Arena` hands out the activations of a step without touching the allocator.
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/tensor/dtype.hpp"

namespace nmoe {

/// Up to four extents. An empty list is a scalar slot of one element; any extent may be 0.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return extents_[static_cast<std::size_t>(axis)]; }
  std::int64_t num_elements() const;
  bool operator==(const Shape&) const = default;
  std::string to_string() const;

 private:
  std::array<std::int64_t, 4> extents_{};
  int rank_ = 0;
};

/// Non-owning, contiguous, row-major. `Void` is `void` or `const void`. A default view is empty (`!view`).
template <typename Void>
class BasicTensorView {
 public:
  BasicTensorView() = default;
  BasicTensorView(Void* data, DType dtype, Shape shape, Device device = Device::cpu)
      : data_(data), shape_(shape), dtype_(dtype), device_(device), valid_(true) {}
  // NOLINTNEXTLINE(google-explicit-constructor): a mutable view is a const view
  template <typename Other, typename = std::enable_if_t<std::is_const_v<Void> && !std::is_const_v<Other>>>
  BasicTensorView(const BasicTensorView<Other>& other)
      : data_(other.raw()),
        shape_(other.shape()),
        dtype_(other.dtype()),
        device_(other.device()),
        valid_(bool(other)) {}

  /// Returns whether the view was given something (possibly zero elements); optional arguments are passed as
  /// `{}`.
  explicit operator bool() const { return valid_; }
  Void* raw() const { return data_; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int axis) const { return shape_[axis]; }
  std::int64_t num_elements() const { return valid_ ? shape_.num_elements() : 0; }
  std::int64_t num_bytes() const { return num_elements() * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  /// Returns a typed pointer. @throws Error(internal) if T is not the dtype.
  template <typename T>
  auto data() const -> std::conditional_t<std::is_const_v<Void>, const T*, T*> {
    NMOE_CHECK(!valid_ || dtype_of<T>::value == dtype_, internal, "tensor holds {}, asked for {}",
               name_of(dtype_), name_of(dtype_of<T>::value));
    return static_cast<std::conditional_t<std::is_const_v<Void>, const T*, T*>>(data_);
  }
  /// Returns the same elements with other extents. @throws Error(internal) if the counts differ.
  BasicTensorView reshape(Shape shape) const {
    NMOE_CHECK(shape.num_elements() == shape_.num_elements(), internal, "cannot reshape {} to {}",
               shape_.to_string(), shape.to_string());
    return {data_, dtype_, shape, device_};
  }
  /// Returns the rows [first, first + count) of the leading axis.
  BasicTensorView rows(std::int64_t first, std::int64_t count) const;

 private:
  Void* data_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::float32;
  Device device_ = Device::cpu;
  bool valid_ = false;
};

using TensorView = BasicTensorView<void>;
using ConstTensorView = BasicTensorView<const void>;

/// Deleter of tensor memory.
struct FreeMemory {
  Device device = Device::cpu;
  void operator()(void* pointer) const noexcept;
};

/// Owns 64-byte aligned memory on a device. Contents start as zeros. Move-only.
class Tensor {
 public:
  Tensor() = default;
  Tensor(Shape shape, DType dtype, Device device = Device::cpu);
  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;

  TensorView view() { return valid() ? TensorView(memory_.get(), dtype_, shape_, device_) : TensorView(); }
  ConstTensorView view() const {
    return valid() ? ConstTensorView(memory_.get(), dtype_, shape_, device_) : ConstTensorView();
  }
  template <typename T>
  T* data() {
    return view().data<T>();
  }
  template <typename T>
  const T* data() const {
    return view().data<T>();
  }
  const Shape& shape() const { return shape_; }
  std::int64_t num_elements() const { return valid() ? shape_.num_elements() : 0; }
  DType dtype() const { return dtype_; }
  bool valid() const { return memory_ != nullptr; }
  void zero();

 private:
  std::unique_ptr<void, FreeMemory> memory_;
  Shape shape_;
  DType dtype_ = DType::float32;
  Device device_ = Device::cpu;
};

/// Returns a copy of a vector as an owning CPU tensor; handy in tests and at file boundaries.
template <typename T>
Tensor make_tensor(const std::vector<T>& values, Shape shape);

/// Bump allocator for the activations of one step: `take` never frees, `reset` makes everything free again.
/// Memory grows to the high-water mark during the first step and stays. Views die at `reset`.
class Arena {
 public:
  explicit Arena(Device device = Device::cpu) : device_(device) {}
  /// Returns uninitialized memory, 64-byte aligned.
  TensorView take(Shape shape, DType dtype);
  /// Returns the bytes that a take of this uses up.
  static std::int64_t bytes_of(const Shape& shape, DType dtype);
  void reset();
  /// Reserves one block of that size, so that takes up to there allocate nothing, however they are cut.
  /// @pre no view is in use
  void reserve(std::int64_t bytes);
  /// Position to go back to with `rewind`, for scratch memory inside a step.
  struct Mark {
    std::size_t block, offset;
    std::int64_t in_use;
  };
  Mark mark() const { return {block_, offset_, in_use_}; }
  void rewind(Mark mark) {
    block_ = mark.block;
    offset_ = mark.offset;
    in_use_ = mark.in_use;
  }
  std::int64_t in_use_bytes() const { return in_use_; }
  /// Returns the largest number of bytes in use at once so far.
  std::int64_t peak_bytes() const { return peak_; }

 private:
  Device device_;
  std::vector<Tensor> blocks_;
  std::size_t block_ = 0, offset_ = 0;
  std::int64_t in_use_ = 0, peak_ = 0;
};

}  // namespace nmoe

#pragma once
// How launchers cut work into blocks and pick the 16-byte or the one-element version of a kernel.
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops::cuda {

constexpr std::int64_t blocks_for(std::int64_t count, std::int64_t per_block) {
  return (count + per_block - 1) / per_block;
}
/// Grids have at most 2^31 − 1 blocks along x.
inline unsigned grid_size(std::int64_t blocks) {
  NMOE_CHECK(blocks <= std::numeric_limits<std::int32_t>::max(), internal, "{} blocks in one launch", blocks);
  return static_cast<unsigned>(blocks);
}

/// True if every tensor that is given starts on a 16-byte boundary and `row` elements of it (its rows) end on
/// one.
inline bool fits_packs(std::int64_t row, std::initializer_list<ConstTensorView> tensors) {
  for (const ConstTensorView& tensor : tensors) {
    if (!tensor) continue;
    if (reinterpret_cast<std::uintptr_t>(tensor.raw()) % 16 != 0 || row * size_of(tensor.dtype()) % 16 != 0) {
      return false;
    }
  }
  return true;
}

/// @throws Error(config) unless the type is float32 or bfloat16: float64 has no CUDA kernels.
inline void expect_element(const char* kernel, DType dtype) {
  NMOE_CHECK(dtype == DType::float32 || dtype == DType::bfloat16, config,
             "{}: no CUDA kernel for {}; use --device cpu", kernel, name_of(dtype));
}
/// Calls f.operator()<T>() with T = float or bfloat16, which the type must be.
template <typename F>
void visit_element(const char* kernel, DType dtype, F&& f) {
  expect_element(kernel, dtype);
  if (dtype == DType::float32) return f.template operator()<float>();
  return f.template operator()<bfloat16>();
}
/// Calls f.operator()<n>() with n = full, or with 1 if `packed` is false.
template <int full, typename F>
void visit_pack(bool packed, F&& f) {
  if (packed) return f.template operator()<full>();
  return f.template operator()<1>();
}

}  // namespace nmoe::ops::cuda

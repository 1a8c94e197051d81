#pragma once
// Argument checks shared by the dispatchers: one line per tensor, one message format.
#include <initializer_list>

#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops {

/// @throws Error(internal) unless `tensor` is given and has exactly this shape and dtype.
void expect(const char* kernel, const char* name, ConstTensorView tensor, const Shape& shape, DType dtype);
/// @throws Error(internal) unless `tensor` is given with `rank` axes and a floating dtype.
void expect_floating(const char* kernel, const char* name, ConstTensorView tensor, int rank);
/// Like `expect`, for tensors that may hold `dtype` or its accumulator type.
void expect_or_acc(const char* kernel, const char* name, ConstTensorView tensor, const Shape& shape,
                   DType dtype);
/// Whether this is a build with CUDA. Without it nothing defines the kernels of ops::cuda, so only a
/// statement that `if constexpr` discards may name them: no list of stubs has to follow the list of kernels.
inline constexpr bool with_cuda = NMOE_WITH_CUDA;
/// Whether the work is for the GPU. @throws Error(internal) unless all tensors that are given sit where
/// `stream` does, Error(config) if that is a GPU in a build without CUDA.
bool on_cuda(const char* kernel, const Stream& stream, std::initializer_list<ConstTensorView> tensors);
/// @throws Error(bad_data) unless low <= values[i] < high for every element of the int32 tensor. Values on a
/// GPU are not read back: they were checked when they were put there.
void expect_range(const char* kernel, const char* name, ConstTensorView values, std::int64_t low,
                  std::int64_t high);
bool is_floating(DType dtype);

}  // namespace nmoe::ops

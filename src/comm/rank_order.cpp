// Reductions on the CPU in ascending rank order, and how they are cut.
#include "rank_order.hpp"

#include <algorithm>
#include <array>
#include <type_traits>

#include "neuronmoe/comm/layout.hpp"

namespace nmoe::comm::detail {

namespace {

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;

/// acc = acc op x. The comparisons are written so that a NaN on either side wins.
template <ReduceOp op, typename A>
A combine(A acc, A x) {
  if constexpr (op == ReduceOp::sum) {
    return static_cast<A>(acc + x);
  } else if constexpr (op == ReduceOp::min) {
    return x < acc || x != x ? x : acc;
  } else {
    return x > acc || x != x ? x : acc;
  }
}

template <typename T, ReduceOp op>
void reduce(std::span<const void* const> sources, T* result, std::int64_t num_elements) {
  constexpr std::int64_t block = 1024;  // stays in the first-level cache while the sources pass by
  std::array<Accumulator<T>, block> acc;
  for (std::int64_t first = 0; first < num_elements; first += block) {
    const std::int64_t count = std::min(block, num_elements - first);
    for (std::size_t r = 0; r < sources.size(); ++r) {
      const T* x = static_cast<const T*>(sources[r]) + first;
      for (std::int64_t i = 0; i < count; ++i) {
        const auto value = static_cast<Accumulator<T>>(x[i]);
        const auto slot = static_cast<std::size_t>(i);
        acc[slot] = r == 0 ? value : combine<op>(acc[slot], value);
      }
    }
    for (std::int64_t i = 0; i < count; ++i)
      result[first + i] = static_cast<T>(acc[static_cast<std::size_t>(i)]);
  }
}

template <typename T>
void reduce_as(ReduceOp op, std::span<const void* const> sources, void* result, std::int64_t num_elements) {
  T* out = static_cast<T*>(result);
  switch (op) {
    case ReduceOp::sum:
      return reduce<T, ReduceOp::sum>(sources, out, num_elements);
    case ReduceOp::min:
      return reduce<T, ReduceOp::min>(sources, out, num_elements);
    case ReduceOp::max:
      return reduce<T, ReduceOp::max>(sources, out, num_elements);
  }
}

}  // namespace

ReducePath reduce_path(DType dtype, std::int64_t count, std::int64_t small_reduce_bytes) {
  const bool integer = dtype == DType::int32 || dtype == DType::int64 || dtype == DType::uint8;
  if (integer) return ReducePath::library;
  return count * size_of(dtype) <= small_reduce_bytes ? ReducePath::gathered : ReducePath::sliced;
}

Slice slice_of(std::int64_t count, int rank, int size) {
  const std::int64_t begin = slice_begin(count, rank, size);
  return {begin, slice_begin(count, rank + 1, size) - begin};
}

void reduce_in_rank_order(DType dtype, ReduceOp op, std::span<const void* const> sources, void* result,
                          std::int64_t num_elements) {
  switch (dtype) {
    case DType::float64:
      return reduce_as<double>(op, sources, result, num_elements);
    case DType::float32:
      return reduce_as<float>(op, sources, result, num_elements);
    case DType::bfloat16:
      return reduce_as<bfloat16>(op, sources, result, num_elements);
    case DType::int32:
      return reduce_as<std::int32_t>(op, sources, result, num_elements);
    case DType::int64:
      return reduce_as<std::int64_t>(op, sources, result, num_elements);
    case DType::uint8:
      return reduce_as<std::uint8_t>(op, sources, result, num_elements);
  }
}

}  // namespace nmoe::comm::detail

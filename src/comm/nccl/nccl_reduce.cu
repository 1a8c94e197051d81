// Sums, minima and maxima over ranks in ascending order: bfloat16 accumulates in float32 and rounds once; the
// comparisons are written so that a NaN on either side wins. One element per thread: reads of a warp are
// contiguous in every part.
#include <device.cuh>
#include <limits>

#include "nccl_reduce.hpp"

namespace nmoe::comm::detail {

namespace {

constexpr unsigned threads = 256;

template <typename T>
struct Accumulator {
  using type = T;
  __device__ static T widen(T value) { return value; }
  __device__ static T narrow(T value) { return value; }
};
template <>
struct Accumulator<bfloat16> {
  using type = float;
  __device__ static float widen(bfloat16 value) {
    return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
  }
  __device__ static bfloat16 narrow(float value) {
    bfloat16 result;
    result.bits = device::bfloat16_bits(value);
    return result;
  }
};

template <ReduceOp op, typename A>
__device__ inline A combine(A acc, A x) {
  if constexpr (op == ReduceOp::sum) {
    return acc + x;
  } else if constexpr (op == ReduceOp::min) {
    return x < acc || x != x ? x : acc;
  } else {
    return x > acc || x != x ? x : acc;
  }
}

template <typename T, ReduceOp op>
__global__ __launch_bounds__(threads) void reduce_kernel(const T* parts, int num_parts, T* result,
                                                         std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= count) return;
  auto acc = Accumulator<T>::widen(parts[i]);
  for (int r = 1; r < num_parts; ++r) acc = combine<op>(acc, Accumulator<T>::widen(parts[r * count + i]));
  result[i] = Accumulator<T>::narrow(acc);
}

template <typename T>
void reduce_as(ReduceOp op, const void* parts, int num_parts, void* result, std::int64_t count,
               Stream& stream) {
  const std::int64_t blocks = (count + threads - 1) / threads;
  NMOE_CHECK(blocks <= std::numeric_limits<std::int32_t>::max(), internal, "{} elements in one reduction",
             count);
  const auto run = [&](auto kernel) {
    device::launch(kernel, dim3(static_cast<unsigned>(blocks)), threads, 0, stream,
                   static_cast<const T*>(parts), num_parts, static_cast<T*>(result), count);
  };
  switch (op) {
    case ReduceOp::sum:
      return run(reduce_kernel<T, ReduceOp::sum>);
    case ReduceOp::min:
      return run(reduce_kernel<T, ReduceOp::min>);
    case ReduceOp::max:
      return run(reduce_kernel<T, ReduceOp::max>);
  }
}

}  // namespace

void reduce_parts(DType dtype, ReduceOp op, const void* parts, int num_parts, void* result,
                  std::int64_t count, Stream& stream) {
  if (count == 0) return;
  switch (dtype) {
    case DType::float64:
      return reduce_as<double>(op, parts, num_parts, result, count, stream);
    case DType::float32:
      return reduce_as<float>(op, parts, num_parts, result, count, stream);
    case DType::bfloat16:
      return reduce_as<bfloat16>(op, parts, num_parts, result, count, stream);
    default:
      throw Error(ErrorCode::internal, fmt::format("{} is not summed by ranks", name_of(dtype)));
  }
}

}  // namespace nmoe::comm::detail

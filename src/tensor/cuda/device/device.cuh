#pragma once
// What our kernels use of the machine beyond the built-ins of CUDA C++: launching, dynamic shared memory, the
// tensor cores, sorting. tests/support/cuda_emulation holds a header of the same name that runs the same
// kernels on the CPU, so that their logic is tested on machines without a GPU.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/tensor/stream.hpp"

namespace nmoe::device {

inline void check(cudaError_t status, const char* what) {
  NMOE_CHECK(status == cudaSuccess, internal, "CUDA: {}: {}", what, cudaGetErrorString(status));
}
inline cudaStream_t native(const Stream& stream) {
  NMOE_CHECK(stream.device() == Device::cuda, internal, "work on CUDA tensors was given a CPU stream");
  return static_cast<cudaStream_t>(stream.native());
}

/// Queues `kernel` on the stream with `shared_bytes` of dynamic shared memory. An empty grid queues nothing.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
            Stream& stream, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "shared memory of a kernel");
  }
  kernel<<<grid, threads, shared_bytes, native(stream)>>>(arguments...);
  check(cudaGetLastError(), "launch of a kernel");
}

/// The block's dynamic shared memory, 16-byte aligned.
__device__ inline unsigned char* dynamic_shared_memory() {
  extern __shared__ __align__(16) unsigned char nmoe_dynamic_memory[];
  return nmoe_dynamic_memory;
}

/// Bits of the bfloat16 nearest to `value`, ties to even.
__device__ inline std::uint16_t bfloat16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
/// Two of them; `low` in the low half.
__device__ inline std::uint32_t bfloat16_pair_bits(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.y)) << 16 | __bfloat16_as_ushort(pair.x);
}

/// Loads four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8;
/// afterwards registers[m] holds elements (l / 4, 2 (l % 4)) and the next one of matrix m (transposed: of its
/// transpose).
template <bool transposed>
__device__ inline void load_matrices(std::uint32_t (&registers)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  }
}

/// c += a·b for one warp: a [16, 16] row-major, b [16, 8] column-major bfloat16, c [16, 8] float32. Fragments
/// as in the PTX manual, mma.m16n8k16: lane l holds c rows l/4 and l/4 + 8, columns 2 (l % 4) and the next.
__device__ inline void multiply_accumulate(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b_low,
                                           std::uint32_t b_high) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

/// Starts a copy of 16 bytes from global to shared memory; it has arrived after copies_arrived() and a
/// barrier.
__device__ inline void start_copy_16(void* shared, const void* global) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}
__device__ inline void copies_arrived() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// Sorts (key, value) pairs by key, ascending and stable; fewer than 2^31. With `temporary` null only
/// `temporary_bytes` is set. Defined in ../sort.cu, the one file that pays for compiling CUB.
void sort_pairs(void* temporary, std::size_t& temporary_bytes, const std::int32_t* keys,
                std::int32_t* sorted_keys, const std::int32_t* values, std::int32_t* sorted_values,
                std::int64_t count, Stream& stream);

/// Sorts the pairs of every segment by key, ascending; segment i is [begins[i], begins[i + 1]), device
/// memory; fewer than 2^31 pairs and segments. Pairs of equal keys come in any order. With `temporary` null
/// only `temporary_bytes` is set.
void sort_segments(void* temporary, std::size_t& temporary_bytes, const std::uint32_t* keys,
                   std::uint32_t* sorted_keys, const std::uint16_t* values, std::uint16_t* sorted_values,
                   const std::int64_t* begins, std::int64_t segments, std::int64_t count, Stream& stream);

}  // namespace nmoe::device

#pragma once
// The twin of src/tensor/cuda/device/device.cuh: the same primitives on the CPU, block after block.
#include <algorithm>
#include <numeric>

#include "block.hpp"
#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"
#include "streams.hpp"

inline void __syncthreads() {
  nmoe::emulation::Block::current().synchronize();
}
inline void __syncwarp(unsigned = 0xFFFFFFFFU) {
  static_cast<void>(nmoe::emulation::Block::current().exchange(0));
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return nmoe::emulation::Block::current().exchange(value)[static_cast<unsigned>(lane) % 32];
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return nmoe::emulation::Block::current().exchange(value)[(threadIdx.x ^ static_cast<unsigned>(mask)) % 32];
}
inline unsigned __ballot_sync(unsigned, bool set) {
  const auto all = nmoe::emulation::Block::current().exchange(set);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(all[lane]) << lane;
  return bits;
}

namespace nmoe::device {

inline void check(cudaError_t status, const char* what) {
  NMOE_CHECK(status == cudaSuccess, internal, "CUDA: {}: {}", what, cudaGetErrorString(status));
}
inline cudaStream_t native(const Stream& stream) {
  NMOE_CHECK(stream.device() == Device::cuda, internal, "work on CUDA tensors was given a CPU stream");
  return static_cast<cudaStream_t>(stream.native());
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
            Stream& stream, Arguments... arguments) {
  emulation::queue_kernel(native(stream), [=] {
    gridDim = grid;
    blockDim = dim3(threads);
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = dim3(x, y, z);
          emulation::Block::run(threads, shared_bytes, [&] { kernel(arguments...); });
        }
      }
    }
  });
}

inline unsigned char* dynamic_shared_memory() {
  return emulation::Block::current().shared_memory();
}

inline std::uint16_t bfloat16_bits(float value) {
  return bfloat16(value).bits;
}
inline std::uint32_t bfloat16_pair_bits(float low, float high) {
  return static_cast<std::uint32_t>(bfloat16_bits(high)) << 16 | bfloat16_bits(low);
}

template <bool transposed>
void load_matrices(std::uint32_t (&registers)[4], const void* row) {
  NMOE_CHECK(reinterpret_cast<std::uintptr_t>(row) % 16 == 0, internal, "ldmatrix of an unaligned row");
  const auto rows = emulation::Block::current().exchange(static_cast<const std::uint16_t*>(row));
  const unsigned lane = threadIdx.x % 32, i = lane / 4, j = 2 * (lane % 4);
  for (unsigned m = 0; m < 4; ++m) {
    const std::uint16_t low = transposed ? rows[m * 8 + j][i] : rows[m * 8 + i][j];
    const std::uint16_t high = transposed ? rows[m * 8 + j + 1][i] : rows[m * 8 + i][j + 1];
    registers[m] = static_cast<std::uint32_t>(high) << 16 | low;
  }
  __syncwarp();  // the rows are read before a lane goes on to overwrite them
}

/// Fragments of mma.m16n8k16 in the PTX manual: register r of lane l holds, of a, row l / 4 (+ 8 for odd r),
/// columns 2 (l % 4) and the next (+ 8 for r >= 2); of b, rows 2 (l % 4) and the next (+ 8 for r = 1), column
/// l / 4.
inline void multiply_accumulate(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b_low,
                                std::uint32_t b_high) {
  struct Fragments {
    std::uint32_t a[4], b[2];
  };
  const auto all = emulation::Block::current().exchange(Fragments{{a[0], a[1], a[2], a[3]}, {b_low, b_high}});
  const auto element = [](std::uint32_t pair, unsigned k) {
    return __uint_as_float(k % 2 == 0 ? pair << 16 : pair & 0xFFFF0000U);
  };
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4, high_row = i / 2, column = 2 * (lane % 4) + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      const std::uint32_t from_a = all[row * 4 + k % 8 / 2].a[high_row + (k < 8 ? 0 : 2)];
      const std::uint32_t from_b = all[column * 4 + k % 8 / 2].b[k < 8 ? 0 : 1];
      c[i] += element(from_a, k) * element(from_b, k);
    }
  }
}

inline void start_copy_16(void* shared, const void* global) {
  NMOE_CHECK(reinterpret_cast<std::uintptr_t>(shared) % 16 == 0 &&
                 reinterpret_cast<std::uintptr_t>(global) % 16 == 0,
             internal, "unaligned 16-byte copy");
  std::memcpy(shared, global, 16);
}
inline void copies_arrived() {}

inline void sort_pairs(void* temporary, std::size_t& temporary_bytes, const std::int32_t* keys,
                       std::int32_t* sorted_keys, const std::int32_t* values, std::int32_t* sorted_values,
                       std::int64_t count, Stream& stream) {
  temporary_bytes = 1;
  if (temporary == nullptr) return;
  emulation::queue_kernel(native(stream), [=] {
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return keys[a] < keys[b]; });
    for (std::size_t i = 0; i < order.size(); ++i) {
      sorted_keys[i] = keys[order[i]];
      sorted_values[i] = values[order[i]];
    }
  });
}

/// Equal keys come in reverse: the order that is not promised is not the stable one here.
inline void sort_segments(void* temporary, std::size_t& temporary_bytes, const std::uint32_t* keys,
                          std::uint32_t* sorted_keys, const std::uint16_t* values,
                          std::uint16_t* sorted_values, const std::int64_t* begins, std::int64_t segments,
                          std::int64_t count, Stream& stream) {
  temporary_bytes = 1;
  if (temporary == nullptr) return;
  emulation::queue_kernel(native(stream), [=] {
    NMOE_CHECK(begins[segments] == count, internal, "segments end at {} of {}", begins[segments], count);
    for (std::int64_t s = 0; s < segments; ++s) {
      std::vector<std::int64_t> order(static_cast<std::size_t>(begins[s + 1] - begins[s]));
      std::iota(order.rbegin(), order.rend(), begins[s]);
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return keys[a] < keys[b]; });
      for (std::size_t i = 0; i < order.size(); ++i) {
        sorted_keys[begins[s] + static_cast<std::int64_t>(i)] = keys[order[i]];
        sorted_values[begins[s] + static_cast<std::int64_t>(i)] = values[order[i]];
      }
    }
  });
}

}  // namespace nmoe::device

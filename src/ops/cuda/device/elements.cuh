#pragma once
// Elements in registers: conversion to float, 16-byte packs, sums over a warp and over a block in one fixed
// order.
#include <device.cuh>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::device {

inline constexpr unsigned all_lanes = 0xFFFFFFFFU;
inline constexpr unsigned warp_size = 32;

__device__ inline float to_float(float value) {
  return value;
}
__device__ inline float to_float(bfloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
/// Rounds once, to nearest even.
template <typename T>
__device__ inline T from_float(float value) {
  if constexpr (sizeof(T) == 2) {
    T result;
    result.bits = bfloat16_bits(value);
    return result;
  } else {
    return value;
  }
}

/// N neighboring elements, moved 16 bytes at a time where they fill them.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
  T values[N];
};
/// Elements of T in 16 bytes.
template <typename T>
inline constexpr int full_pack = static_cast<int>(16 / sizeof(T));

template <int N, typename T>
__device__ inline Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, typename T>
__device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

/// N elements as floats, and back.
template <int N, typename T>
__device__ inline Pack<float, N> load_floats(const T* from) {
  const Pack<T, N> pack = load_pack<N>(from);
  Pack<float, N> floats;
#pragma unroll
  for (int j = 0; j < N; ++j) floats.values[j] = to_float(pack.values[j]);
  return floats;
}
template <int N, typename T>
__device__ inline void store_floats(T* to, const Pack<float, N>& floats) {
  Pack<T, N> pack;
#pragma unroll
  for (int j = 0; j < N; ++j) pack.values[j] = from_float<T>(floats.values[j]);
  store_pack<N>(to, pack);
}

struct Add {
  template <typename A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};
struct Maximum {
  template <typename A>
  __device__ A operator()(A a, A b) const {
    return a > b ? a : b;
  }
};

/// Folds the values of a warp's 32 lanes in one fixed tree; every lane gets the result.
template <typename A, typename Op = Add>
__device__ inline A fold_warp(A value, Op op = {}) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value = op(value, __shfl_xor_sync(all_lanes, value, distance));
  }
  return value;
}

/// Folds the values of all threads of a block of `threads` (a multiple of 32): warps first, then their
/// results in ascending order. Every thread gets the result. Begins and ends with a barrier.
template <int threads, typename A, typename Op = Add>
__device__ inline A fold_block(A value, Op op = {}) {
  constexpr int warps = threads / 32;
  __shared__ A partial[warps];
  value = fold_warp(value, op);
  __syncthreads();
  if (threadIdx.x % warp_size == 0) partial[threadIdx.x / warp_size] = value;
  __syncthreads();
  A total = partial[0];
  for (int w = 1; w < warps; ++w) total = op(total, partial[w]);
  __syncthreads();
  return total;
}

}  // namespace nmoe::device

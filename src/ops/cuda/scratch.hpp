#pragma once
// Device memory that kernels need between two launches. It grows to the largest size asked for and stays, so
// a step allocates nothing after the first.
#include <cstdint>

#include "neuronmoe/tensor/stream.hpp"

namespace nmoe::ops::cuda {

/// Each purpose has memory of its own on each stream.
enum class Scratch {
  gemm,
  widened,
  rounded,
  partials,
  keys,
  sort,
  tiles,
  prefixed_tiles,
  delta,
  balancing,
  classes,
  segments,
  participants
};

/// At least `bytes` of memory, 256-byte aligned, contents unspecified, valid until more is asked for the same
/// purpose. Work queued on `stream` may use it; a later caller's work comes behind on the same stream.
void* scratch_bytes(Stream& stream, Scratch purpose, std::int64_t bytes);

template <typename T>
T* scratch(Stream& stream, Scratch purpose, std::int64_t count) {
  return static_cast<T*>(scratch_bytes(stream, purpose, count * static_cast<std::int64_t>(sizeof(T))));
}

}  // namespace nmoe::ops::cuda

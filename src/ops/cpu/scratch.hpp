#pragma once
// Host memory that CPU kernels need while they run, one set per thread. The CUDA side: cuda/scratch.hpp.
#include <cstdint>
#include <vector>

namespace nmoe::ops::cpu {

/// Each purpose has memory of its own: one entry per use, so that no kernel overwrites what another, which it
/// calls or is called by, still reads.
enum class Scratch {
  gemm_wide_a,  // operands of oneDNN as float
  gemm_wide_b,
  gemm_packed_a,  // panels of our own loops
  gemm_packed_b,
  linear_wide,
  linear_sums,
  combine_terms,
  attention_q,  // heads as float
  attention_k,
  attention_v,
  attention_o,
  attention_d_o,
  attention_scores,
  attention_score_gradients,
  attention_sum_o,
  attention_sum_dq,
  attention_sum_dk,
  attention_sum_dv,
  direction_factors
};

/// At least `size` elements that live as long as the thread: steps allocate nothing after the first. Contents
/// are unspecified.
template <typename T, Scratch purpose>
T* scratch(std::int64_t size) {
  thread_local std::vector<T> memory;
  if (static_cast<std::int64_t>(memory.size()) < size) memory.resize(static_cast<std::size_t>(size));
  return memory.data();
}

}  // namespace nmoe::ops::cpu

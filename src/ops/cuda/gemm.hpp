#pragma once
// One matrix product on a stream. gemm_cublaslt.cpp computes it; linear.cu builds the layers' products from
// it.
#include <cstdint>

#include "neuronmoe/tensor/stream.hpp"

namespace nmoe::ops::cuda {

/// c = op(a)·op(b) (+ c) (+ bias), all row-major without gaps: op(a) [m, k], op(b) [k, n], c [m, n], bias
/// [n]. Inputs are both float32 or both bfloat16; c and bias are `output`: the input type, or float32 for
/// bfloat16 inputs. Sums are float32 (no TF32), rounded once.
struct Gemm {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;  ///< stored as [k, m], [n, k]
  DType input, output;
  bool accumulate;
  auto operator<=>(const Gemm&) const = default;
};

/// `bias` may be null. Any extent may be 0.
void gemm(const Gemm& call, const void* a, const void* b, void* c, const void* bias, Stream& stream);

}  // namespace nmoe::ops::cuda

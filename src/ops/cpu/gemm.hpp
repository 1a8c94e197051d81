#pragma once
// The matrix product under linear layers and attention. CMake links gemm_onednn or gemm_plain behind it;
// float64 is in gemm.cpp. Row-major throughout.
#include <cstdint>

#include "neuronmoe/tensor/dtype.hpp"

namespace nmoe::ops::cpu {

/// C = op(A)·op(B) + (accumulate ? C : 0) with C [m, n], op(A) [m, k], op(B) [k, n]. `transpose_a` says that
/// A is stored as [k, m], `transpose_b` that B is stored as [n, k]; ld* are the strides of the stored rows.
struct GemmShape {
  bool transpose_a, transpose_b;
  std::int64_t m, n, k, lda, ldb, ldc;
};

/// One piece on the calling thread, sums in float (double for double). m, n, k >= 1.
void gemm_piece(const GemmShape& shape, const float* a, const float* b, float* c, bool accumulate);
void gemm_piece(const GemmShape& shape, const bfloat16* a, const bfloat16* b, float* c, bool accumulate);
void gemm_piece(const GemmShape& shape, const double* a, const double* b, double* c, bool accumulate);

/// Whole products of any size, threaded over blocks of C that depend on the shape alone: the result has the
/// same bits on any number of threads. k = 0 gives zeros.
void gemm(const GemmShape& shape, const float* a, const float* b, float* c, bool accumulate);
void gemm(const GemmShape& shape, const bfloat16* a, const bfloat16* b, float* c, bool accumulate);
void gemm(const GemmShape& shape, const double* a, const double* b, double* c, bool accumulate);

}  // namespace nmoe::ops::cpu

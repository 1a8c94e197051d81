#pragma once
// The product of a few rows, which costs one reading of B instead of the arithmetic of the rows that sgemm
// needs.
#include <cstdint>

#include "../gemm.hpp"

namespace nmoe::ops::cpu {

/// Most rows of A that few_rows takes, and most terms that are added one after the other.
inline constexpr std::int64_t most_few_rows = 15, most_terms = 384;

/// Returns how many of the `left` terms of a sum are added next: most_terms, or half of what is fewer than
/// twice as many.
constexpr std::int64_t next_terms(std::int64_t left) {
  return left >= 2 * most_terms ? most_terms : left > most_terms ? (left + 1) / 2 : left;
}

/// Computes C = A·op(B) + (accumulate ? C : 0) in float32, A [m, k] stored as it is, m <= most_few_rows. An
/// element of C is a sum of chains of next_terms fused multiply-adds along k, each begun at 0 and then added
/// to what C held. To be called on CPUs with AVX-512 only: on x86 this file is compiled for it, whatever the
/// others are compiled for.
void few_rows(const GemmShape& shape, const float* a, const float* b, float* c, bool accumulate);

/// Computes the same for n = 1 and any m.
void one_column(const GemmShape& shape, const float* a, const float* b, float* c, bool accumulate);

}  // namespace nmoe::ops::cpu

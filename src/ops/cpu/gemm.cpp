// Whole products cut into pieces for the threads, and the plain product in float64.
#include "gemm.hpp"

#include <algorithm>

#include "threads.hpp"

namespace nmoe::ops::cpu {

namespace {

// Blocks of C: long enough that packing inside a piece pays, and enough of them for the cores of a node. Cut
// along the longer side of C only.
constexpr std::int64_t block_rows = 256, max_blocks = 64;

struct Cut {
  bool rows;
  std::int64_t block, count;
};

Cut cut_of(const GemmShape& s) {
  const bool rows = s.m >= s.n;
  const std::int64_t extent = rows ? s.m : s.n;
  const std::int64_t target = std::max(block_rows, (extent + max_blocks - 1) / max_blocks);
  const std::int64_t count = (extent + target - 1) / target;
  // Even blocks, in multiples of 16 so that vectors stay whole.
  const std::int64_t block = ((extent + count - 1) / count + 15) / 16 * 16;
  return {rows, block, (extent + block - 1) / block};
}

template <typename T, typename C>
void gemm_blocks(const GemmShape& s, const T* a, const T* b, C* c, bool accumulate) {
  if (s.m == 0 || s.n == 0) return;
  if (s.k == 0) {
    for (std::int64_t i = 0; i < s.m && !accumulate; ++i) std::fill_n(c + i * s.ldc, s.n, C(0));
    return;
  }
  const Cut cut = cut_of(s);
  parallel_for(cut.count, s.m * s.n * s.k / 16, [&](std::int64_t i) {
    GemmShape piece = s;
    const std::int64_t first = i * cut.block;
    if (cut.rows) {
      piece.m = std::min(cut.block, s.m - first);
      gemm_piece(piece, a + first * (s.transpose_a ? 1 : s.lda), b, c + first * s.ldc, accumulate);
    } else {
      piece.n = std::min(cut.block, s.n - first);
      gemm_piece(piece, a, b + first * (s.transpose_b ? s.ldb : 1), c + first, accumulate);
    }
  });
}

}  // namespace

void gemm(const GemmShape& shape, const float* a, const float* b, float* c, bool accumulate) {
  gemm_blocks(shape, a, b, c, accumulate);
}
void gemm(const GemmShape& shape, const bfloat16* a, const bfloat16* b, float* c, bool accumulate) {
  gemm_blocks(shape, a, b, c, accumulate);
}
void gemm(const GemmShape& shape, const double* a, const double* b, double* c, bool accumulate) {
  gemm_blocks(shape, a, b, c, accumulate);
}

// Plain loops in an order that runs along rows of C; only gradient checks work in double.
void gemm_piece(const GemmShape& s, const double* a, const double* b, double* c, bool accumulate) {
  for (std::int64_t i = 0; i < s.m; ++i) {
    double* row = c + i * s.ldc;
    if (!accumulate) std::fill_n(row, s.n, 0.0);
    for (std::int64_t l = 0; l < s.k; ++l) {
      const double factor = s.transpose_a ? a[l * s.lda + i] : a[i * s.lda + l];
      const std::int64_t step = s.transpose_b ? s.ldb : 1;
      const double* other = s.transpose_b ? b + l : b + l * s.ldb;
      for (std::int64_t j = 0; j < s.n; ++j) row[j] += factor * other[j * step];
    }
  }
}

}  // namespace nmoe::ops::cpu

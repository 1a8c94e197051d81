// Products of a few rows, in the order of additions that sgemm has from 16 rows on. Nothing inline from other
// headers may be called here: the linker could then give others a copy that needs AVX-512.
#include "few_rows.hpp"

namespace nmoe::ops::cpu {

namespace {

constexpr std::int64_t width = 16;  // outputs side by side, and terms that are transposed at once
constexpr std::int64_t chains = 4;  // rows side by side: a chain waits for each of its additions

using Vector [[gnu::vector_size(64)]] = float;
using Half [[gnu::vector_size(64)]] = double;  // pairs of floats that move together

Vector load(const float* p) {
  Vector x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}

// Sixteen rows of 16 floats, `stride` apart, as sixteen columns: columns[t][r] = rows[r][t].
void transpose(float* columns, const float* rows, std::int64_t stride) {
  Vector x[width], y[width];
  for (int r = 0; r < 16; ++r) x[r] = load(rows + r * stride);
  for (int r = 0; r < 16; r += 2) {
    y[r] = __builtin_shufflevector(x[r], x[r + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    y[r + 1] =
        __builtin_shufflevector(x[r], x[r + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  for (int r = 0; r < 16; r += 4) {
    for (int i = 0; i < 2; ++i) {
      const auto a = (Half)y[r + i], b = (Half)y[r + 2 + i];
      x[r + 2 * i] = (Vector)__builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
      x[r + 2 * i + 1] = (Vector)__builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    }
  }
  // x[4 g + t] has terms t, t + 4, t + 8, t + 12 of rows 4 g to 4 g + 3, four floats each.
  for (int t = 0; t < 4; ++t) {
    const auto a = (Half)x[t], b = (Half)x[4 + t], c = (Half)x[8 + t], d = (Half)x[12 + t];
    const Half ab = __builtin_shufflevector(a, b, 0, 1, 8, 9, 2, 3, 10, 11);
    const Half cd = __builtin_shufflevector(c, d, 0, 1, 8, 9, 2, 3, 10, 11);
    const Half ab2 = __builtin_shufflevector(a, b, 4, 5, 12, 13, 6, 7, 14, 15);
    const Half cd2 = __builtin_shufflevector(c, d, 4, 5, 12, 13, 6, 7, 14, 15);
    const Half out[4] = {__builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11),
                         __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15),
                         __builtin_shufflevector(ab2, cd2, 0, 1, 2, 3, 8, 9, 10, 11),
                         __builtin_shufflevector(ab2, cd2, 4, 5, 6, 7, 12, 13, 14, 15)};
    for (int i = 0; i < 4; ++i) __builtin_memcpy(columns + (t + 4 * i) * width, &out[i], sizeof(Half));
  }
}

// Panel [count, 16] of op(B): terms from `first` on of the outputs [j, j + outputs).
void pack(float* panel, const GemmShape& s, const float* b, std::int64_t first, std::int64_t count,
          std::int64_t j, std::int64_t outputs) {
  if (!s.transpose_b) {
    const float* row = b + first * s.ldb + j;
    for (std::int64_t l = 0; l < count; ++l, row += s.ldb) {
      if (outputs == width)
        __builtin_memcpy(panel + l * width, row, width * sizeof(float));
      else
        for (std::int64_t o = 0; o < outputs; ++o) panel[l * width + o] = row[o];
    }
    return;
  }
  const float* rows = b + j * s.ldb + first;
  const std::int64_t whole = outputs == width ? count / width * width : 0;
  for (std::int64_t l = 0; l < whole; l += width) transpose(panel + l * width, rows + l, s.ldb);
  for (std::int64_t l = whole; l < count; ++l)
    for (std::int64_t o = 0; o < outputs; ++o) panel[l * width + o] = rows[o * s.ldb + l];
}

// Chains of `Rows` rows, added to `sums`. Compiled with -ffp-contract=fast: a product and its sum are one
// fused multiply-add.
template <std::int64_t Rows>
void add_chains(Vector* sums, const float* a, std::int64_t lda, const float* panel, std::int64_t count) {
  Vector chain[Rows] = {};
  for (std::int64_t l = 0; l < count; ++l) {
    const Vector outputs = load(panel + l * width);
    for (std::int64_t i = 0; i < Rows; ++i) chain[i] = a[i * lda + l] * outputs + chain[i];
  }
  for (std::int64_t i = 0; i < Rows; ++i) sums[i] += chain[i];
}

}  // namespace

void few_rows(const GemmShape& s, const float* a, const float* b, float* c, bool accumulate) {
  alignas(64) float panel[most_terms * width] = {};
  for (std::int64_t j = 0; j < s.n; j += width) {
    const std::int64_t outputs = s.n - j < width ? s.n - j : width;
    Vector sums[most_few_rows] = {};
    if (accumulate)
      for (std::int64_t i = 0; i < s.m; ++i)
        for (std::int64_t o = 0; o < outputs; ++o) sums[i][o] = c[i * s.ldc + j + o];
    std::int64_t count = 0;
    for (std::int64_t first = 0; first < s.k; first += count) {
      count = next_terms(s.k - first);
      pack(panel, s, b, first, count, j, outputs);
      std::int64_t i = 0;
      for (; i + chains <= s.m; i += chains)
        add_chains<chains>(sums + i, a + i * s.lda + first, s.lda, panel, count);
      for (; i < s.m; ++i) add_chains<1>(sums + i, a + i * s.lda + first, s.lda, panel, count);
    }
    for (std::int64_t i = 0; i < s.m; ++i)
      for (std::int64_t o = 0; o < outputs; ++o) c[i * s.ldc + j + o] = sums[i][o];
  }
}

void one_column(const GemmShape& s, const float* a, const float* b, float* c, bool accumulate) {
  const std::int64_t step = s.transpose_b ? 1 : s.ldb;
  for (std::int64_t i = 0; i < s.m; ++i) {
    float sum = accumulate ? c[i * s.ldc] : 0.0F;
    std::int64_t count = 0;
    for (std::int64_t first = 0; first < s.k; first += count) {
      count = next_terms(s.k - first);
      float chain = 0.0F;
      for (std::int64_t l = first; l < first + count; ++l) chain = a[i * s.lda + l] * b[l * step] + chain;
      sum += chain;
    }
    c[i * s.ldc] = sum;
  }
}

}  // namespace nmoe::ops::cpu

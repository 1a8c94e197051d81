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

// A part of op(B): `count` terms from `first` on, of the outputs [j, j + outputs).
struct Part {
  std::int64_t first, count, j, outputs;
};

// Asks for the terms of the 16 outputs behind a part, row by row as memory holds them: hardware foresees that
// one stream, not sixteen.
class Prefetch {
 public:
  Prefetch(const GemmShape& s, const float* b, const Part& part)
      : row_(b + (part.j + width) * s.ldb + part.first), stride_(s.ldb), length_(part.count) {}
  void ask() {
    for (std::int64_t i = 0; i < width; ++i) {
      __builtin_prefetch(row_ + column_, 0, 1);
      column_ += width;
      if (column_ >= length_) {
        column_ = 0;
        row_ += stride_;
      }
    }
  }

 private:
  const float* row_;
  std::int64_t stride_, length_, column_ = 0;
};

// Panel [terms, 16] of the terms from `l` on of a part.
void pack(float* panel, const GemmShape& s, const float* b, const Part& part, std::int64_t l,
          std::int64_t terms) {
  if (!s.transpose_b) {
    const float* row = b + (part.first + l) * s.ldb + part.j;
    for (std::int64_t t = 0; t < terms; ++t, row += s.ldb) {
      if (part.outputs == width)
        __builtin_memcpy(panel + t * width, row, width * sizeof(float));
      else
        for (std::int64_t o = 0; o < part.outputs; ++o) panel[t * width + o] = row[o];
    }
    return;
  }
  const float* rows = b + part.j * s.ldb + part.first + l;
  if (terms == width && part.outputs == width) return transpose(panel, rows, s.ldb);
  for (std::int64_t t = 0; t < terms; ++t)
    for (std::int64_t o = 0; o < part.outputs; ++o) panel[t * width + o] = rows[o * s.ldb + t];
}

// Lengthens the chains of `Rows` rows by `terms` terms. Compiled with -O3 -ffp-contract=fast: a product and
// its sum are one fused multiply-add.
template <std::int64_t Rows>
void lengthen(Vector* chains_of, const float* a, std::int64_t lda, const float* panel, std::int64_t terms) {
  for (std::int64_t t = 0; t < terms; ++t) {
    const Vector outputs = load(panel + t * width);
    for (std::int64_t i = 0; i < Rows; ++i) chains_of[i] = a[i * lda + t] * outputs + chains_of[i];
  }
}

// Adds a part to the sums of the first `Rows` rows, and leaves its panel for the others: chains of one step
// and the transposition of the next run side by side.
template <std::int64_t Rows>
void add_packing(Vector* sums, float* panel, const GemmShape& s, const float* a, const float* b,
                 const Part& part) {
  Vector chain[Rows] = {};
  Prefetch next(s, b, part);
  std::int64_t l = 0;
  for (; l + width <= part.count; l += width) {
    pack(panel + l * width, s, b, part, l, width);
    if (s.transpose_b) next.ask();
    lengthen<Rows>(chain, a + part.first + l, s.lda, panel + l * width, width);
  }
  pack(panel + l * width, s, b, part, l, part.count - l);
  lengthen<Rows>(chain, a + part.first + l, s.lda, panel + l * width, part.count - l);
  for (std::int64_t i = 0; i < Rows; ++i) sums[i] += chain[i];
}

template <std::int64_t Rows>
void add_packed(Vector* sums, const float* a, std::int64_t lda, const float* panel, std::int64_t count) {
  Vector chain[Rows] = {};
  lengthen<Rows>(chain, a, lda, panel, count);
  for (std::int64_t i = 0; i < Rows; ++i) sums[i] += chain[i];
}

}  // namespace

void few_rows(const GemmShape& s, const float* a, const float* b, float* c, bool accumulate) {
  alignas(64) float panel[most_terms * width] = {};
  Part part{};
  for (part.j = 0; part.j < s.n; part.j += width) {
    part.outputs = s.n - part.j < width ? s.n - part.j : width;
    float* const column = c + part.j;
    Vector sums[most_few_rows] = {};
    if (accumulate)
      for (std::int64_t i = 0; i < s.m; ++i)
        for (std::int64_t o = 0; o < part.outputs; ++o) sums[i][o] = column[i * s.ldc + o];
    for (part.first = 0; part.first < s.k; part.first += part.count) {
      part.count = next_terms(s.k - part.first);
      std::int64_t i = 0;
      if (s.m >= chains) {
        add_packing<chains>(sums, panel, s, a, b, part);
        i = chains;
      } else {
        add_packing<1>(sums, panel, s, a, b, part);
        i = 1;
      }
      for (; i + chains <= s.m; i += chains)
        add_packed<chains>(sums + i, a + i * s.lda + part.first, s.lda, panel, part.count);
      for (; i < s.m; ++i) add_packed<1>(sums + i, a + i * s.lda + part.first, s.lda, panel, part.count);
    }
    for (std::int64_t i = 0; i < s.m; ++i)
      for (std::int64_t o = 0; o < part.outputs; ++o) column[i * s.ldc + o] = sums[i][o];
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

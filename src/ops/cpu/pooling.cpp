// Sums over groups of rows, cut by column or by row so that every sum keeps its order.
#include <algorithm>
#include <cmath>

#include "floating.hpp"
#include "lanes.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace nmoe::ops::cpu {
namespace {

/// f(group, row, first, size) for every row of every group, in order, for each block of columns.
template <typename F>
void for_blocks(const RowGroups& groups, std::int64_t width, F&& f) {
  constexpr std::int64_t block = 1024;
  const auto *rows = groups.rows.data<std::int32_t>(), *begins = groups.begins.data<std::int32_t>();
  const std::int64_t num_groups = groups.begins.dim(0) - 1;
  parallel_for((width + block - 1) / block, groups.rows.num_elements() * width, [&](std::int64_t b) {
    const std::int64_t first = b * block, size = std::min(block, width - first);
    for (std::int64_t g = 0; g < num_groups; ++g)
      for (std::int32_t i = begins[g]; i < begins[g + 1]; ++i) f(g, std::int64_t{rows[i]}, first, size);
  });
}

}  // namespace

void sum_groups(TensorView sums, ConstTensorView values, const RowGroups& groups, Stream& stream) {
  if (values.dtype() == DType::float64) return reference::sum_groups(sums, values, groups, stream);
  const std::int64_t width = values.dim(1);
  std::fill_n(sums.data<float>(), sums.num_elements(), 0.0F);
  visit_fast(values.dtype(), [&]<typename T>() {
    for_blocks(groups, width,
               [&](std::int64_t group, std::int64_t row, std::int64_t first, std::int64_t size) {
                 const T* from = values.data<T>() + row * width + first;
                 float* to = sums.data<float>() + group * width + first;
                 for_lanes(size, [&](std::int64_t i, auto n) {
                   store_n(to + i, load_n(to + i, n) + load_n(from + i, n), n);
                 });
               });
  });
}

void count_positive(TensorView counts, ConstTensorView values, const RowGroups& groups, Stream&) {
  const std::int64_t width = values.dim(1);
  visit_floating(values.dtype(), [&]<typename T>() {
    for_blocks(groups, width,
               [&](std::int64_t group, std::int64_t row, std::int64_t first, std::int64_t size) {
                 const T* from = values.data<T>() + row * width + first;
                 auto* to = counts.data<std::int64_t>() + group * width + first;
                 for (std::int64_t i = 0; i < size; ++i) to[i] += static_cast<float>(from[i]) > 0.0F ? 1 : 0;
               });
  });
}

void add_directions(TensorView sums, TensorView counts, ConstTensorView values, const RowGroups& groups,
                    double scale, Stream&) {
  const std::int64_t rows = values.dim(0), width = values.dim(1);
  visit_floating(values.dtype(), [&]<typename T>() {
    double* factors = scratch<double, Scratch::direction_factors>(rows);  // 0: no direction
    parallel_for(rows, rows * width, [&](std::int64_t row) {
      const T* x = values.data<T>() + row * width;
      double squares = 0.0;
      for (std::int64_t n = 0; n < width; ++n) {
        const auto value = static_cast<double>(static_cast<float>(x[n]));
        squares += value * value;
      }
      factors[row] = squares > 0.0 && std::isfinite(squares) ? scale / std::sqrt(squares) : 0.0;
    });
    const auto *row_of = groups.rows.data<std::int32_t>(), *begins = groups.begins.data<std::int32_t>();
    for (std::int64_t g = 0; g < sums.dim(0); ++g)
      for (std::int32_t i = begins[g]; i < begins[g + 1]; ++i)
        counts.data<std::int64_t>()[g] += factors[row_of[i]] > 0.0 ? 1 : 0;
    for_blocks(groups, width,
               [&](std::int64_t group, std::int64_t row, std::int64_t first, std::int64_t size) {
                 const double factor = factors[row];
                 if (factor == 0.0) return;
                 const T* from = values.data<T>() + row * width + first;
                 auto* to = sums.data<std::int64_t>() + group * width + first;
                 for (std::int64_t i = 0; i < size; ++i)
                   to[i] += std::llrint(static_cast<double>(static_cast<float>(from[i])) * factor);
               });
  });
}

}  // namespace nmoe::ops::cpu

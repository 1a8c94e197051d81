#pragma once
// How CPU kernels use OpenMP: static shares of independent pieces, never a reduction.
#include <omp.h>

#include <cstdint>

namespace nmoe::ops::cpu {

/// Below this many element operations a kernel stays on the calling thread: waking threads costs about as
/// much.
inline constexpr std::int64_t parallel_threshold = 32768;

/// Calls f(i) for 0 <= i < count, in static shares over the threads if `work` (element operations in all) is
/// worth it. Each f(i) must write its own results only.
template <typename F>
void parallel_for(std::int64_t count, std::int64_t work, F&& f) {
#pragma omp parallel for schedule(static) if (work > parallel_threshold)
  for (std::int64_t i = 0; i < count; ++i) f(i);
}

/// Calls f(first, last) for consecutive column ranges of at most 64: kernels that sum over rows are cut by
/// column, so every sum has its rows in ascending order on any number of threads.
template <typename F>
void parallel_columns(std::int64_t columns, std::int64_t rows, F&& f) {
  constexpr std::int64_t block = 64;
  parallel_for((columns + block - 1) / block, columns * rows,
               [&](std::int64_t b) { f(b * block, columns < (b + 1) * block ? columns : (b + 1) * block); });
}

}  // namespace nmoe::ops::cpu

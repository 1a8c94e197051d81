#pragma once
// Sums over rows, one per column, in one fixed order: chunks of 128 rows ascending inside, then the chunks
// ascending. Used for gradients of norm weights and biases.
#include "device/elements.cuh"
#include "launch.hpp"
#include "scratch.hpp"

namespace nmoe::ops::cuda {

inline constexpr std::int64_t rows_per_chunk = 128;
inline constexpr unsigned column_threads = 128;

/// partials[chunk, column] = Σ over the chunk's rows of f.value(row, column).
template <typename F>
__global__ __launch_bounds__(column_threads) void column_partials_kernel(float* partials, F f,
                                                                         std::int64_t rows,
                                                                         std::int64_t width) {
  const std::int64_t column = std::int64_t{blockIdx.y} * column_threads + threadIdx.x;
  if (column >= width) return;
  const std::int64_t first = std::int64_t{blockIdx.x} * rows_per_chunk;
  const std::int64_t last = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
  float sum = 0.0F;
  for (std::int64_t row = first; row < last; ++row) sum += f.value(row, column);
  partials[std::int64_t{blockIdx.x} * width + column] = sum;
}

/// out[column] += Σ over chunks.
template <typename Unused>
__global__ __launch_bounds__(column_threads) void column_totals_kernel(float* out, const float* partials,
                                                                       std::int64_t chunks,
                                                                       std::int64_t width) {
  const std::int64_t column = std::int64_t{blockIdx.x} * column_threads + threadIdx.x;
  if (column >= width) return;
  float sum = 0.0F;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += partials[chunk * width + column];
  out[column] += sum;
}

/// out[column] += Σ_row f.value(row, column).
template <typename F>
void add_column_sums(float* out, F f, std::int64_t rows, std::int64_t width, Stream& stream) {
  if (rows == 0 || width == 0) return;
  const std::int64_t chunks = blocks_for(rows, rows_per_chunk), blocks = blocks_for(width, column_threads);
  auto* partials = scratch<float>(stream, Scratch::partials, chunks * width);
  device::launch(column_partials_kernel<F>, dim3(grid_size(chunks), grid_size(blocks)), column_threads, 0,
                 stream, partials, f, rows, width);
  device::launch(column_totals_kernel<void>, dim3(grid_size(blocks)), column_threads, 0, stream, out,
                 static_cast<const float*>(partials), chunks, width);
}

}  // namespace nmoe::ops::cuda

// Sums over groups of rows: one block per group and piece of the columns, a thread per pack of columns, rows
// in the order of the CPU's loops. Bound by memory bandwidth: every value is read once, 16 bytes at a time.
#include <cfloat>

#include "device/elements.cuh"
#include "launch.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "scratch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int threads = 128;

template <int N, typename T, typename F>
__global__ __launch_bounds__(threads) void fold_groups_kernel(F f, const T* values, const std::int32_t* rows,
                                                              const std::int32_t* begins,
                                                              std::int64_t width) {
  const std::int64_t column = (std::int64_t{blockIdx.y} * threads + threadIdx.x) * N, group = blockIdx.x;
  if (column >= width) return;
  Pack<typename F::Sum, N> sums{};
  const std::int32_t end = begins[group + 1];
#pragma unroll 4
  for (std::int32_t i = begins[group]; i < end; ++i) {
    const std::int64_t row = rows[i];
    const auto x = load_floats<N>(values + row * width + column);
#pragma unroll
    for (int j = 0; j < N; ++j) f.add(sums.values[j], x.values[j], row);
  }
#pragma unroll
  for (int j = 0; j < N; ++j) f.store(group * width + column + j, sums.values[j]);
}

struct SumValues {
  using Sum = float;
  float* sums;
  __device__ void add(float& sum, float value, std::int64_t) const { sum += value; }
  __device__ void store(std::int64_t at, float sum) const { sums[at] = sum; }
};

struct CountPositive {
  using Sum = std::int32_t;
  std::int64_t* counts;
  __device__ void add(std::int32_t& count, float value, std::int64_t) const { count += value > 0.0F ? 1 : 0; }
  __device__ void store(std::int64_t at, std::int32_t count) const { counts[at] += count; }
};

struct SumDirections {
  using Sum = std::int64_t;
  std::int64_t* sums;
  const double* factors;
  __device__ void add(std::int64_t& sum, float value, std::int64_t row) const {
    const double factor = factors[row];
    if (factor > 0.0) sum += llrint(static_cast<double>(value) * factor);
  }
  __device__ void store(std::int64_t at, std::int64_t sum) const { sums[at] += sum; }
};

/// factors[row] = scale / |row|, 0 for rows without a direction. A warp measures 32 rows, one per lane; the
/// elements pass through shared memory 32 rows x 32 columns at a time, so that the loads are contiguous.
template <typename T>
__global__ __launch_bounds__(threads) void row_factors_kernel(double* factors, const T* values,
                                                              std::int64_t rows, std::int64_t width,
                                                              double scale) {
  __shared__ float tiles[threads / 32][32][33];
  float(&tile)[32][33] = tiles[threadIdx.x / 32];
  const std::int64_t lane = threadIdx.x % 32,
                     first_row = (std::int64_t{blockIdx.x} * threads + threadIdx.x) - lane;
  double squares = 0.0;
  for (std::int64_t from = 0; from < width; from += 32) {
#pragma unroll 8
    for (std::int64_t row = 0; row < 32; ++row) {
      const bool inside = first_row + row < rows && from + lane < width;
      tile[row][lane] = inside ? to_float(values[(first_row + row) * width + from + lane]) : 0.0F;
    }
    __syncwarp();
#pragma unroll 8
    for (int i = 0; i < 32; ++i) {
      const auto value = static_cast<double>(tile[lane][i]);
      squares += value * value;  // exact products: fused or not, the same bits
    }
    __syncwarp();
  }
  if (first_row + lane >= rows) return;
  factors[first_row + lane] = squares > 0.0 && squares <= DBL_MAX ? scale / sqrt(squares) : 0.0;
}

/// counts[group] += rows with a direction. One block per group.
__global__ __launch_bounds__(threads) void count_directions_kernel(std::int64_t* counts,
                                                                   const double* factors,
                                                                   const std::int32_t* rows,
                                                                   const std::int32_t* begins) {
  std::int32_t count = 0;
  for (std::int32_t i = begins[blockIdx.x] + static_cast<std::int32_t>(threadIdx.x);
       i < begins[blockIdx.x + 1]; i += threads)
    count += factors[rows[i]] > 0.0 ? 1 : 0;
  count = fold_block<threads>(count);
  if (threadIdx.x == 0) counts[blockIdx.x] += count;
}

template <typename F>
void fold_groups(const char* name, F f, ConstTensorView values, const RowGroups& groups, Stream& stream) {
  const std::int64_t width = values.dim(1), num_groups = groups.begins.dim(0) - 1;
  visit_element(name, values.dtype(), [&]<typename T>() {
    visit_pack<full_pack<T>>(fits_packs(width, {values}), [&]<int n>() {
      launch(fold_groups_kernel<n, T, F>,
             dim3(grid_size(num_groups), grid_size(blocks_for(width, threads * n))), threads, 0, stream, f,
             values.data<T>(), groups.rows.data<std::int32_t>(), groups.begins.data<std::int32_t>(), width);
    });
  });
}

}  // namespace

void sum_groups(TensorView sums, ConstTensorView values, const RowGroups& groups, Stream& stream) {
  fold_groups("sum_groups", SumValues{sums.data<float>()}, values, groups, stream);
}

void count_positive(TensorView counts, ConstTensorView values, const RowGroups& groups, Stream& stream) {
  fold_groups("count_positive", CountPositive{counts.data<std::int64_t>()}, values, groups, stream);
}

void add_directions(TensorView sums, TensorView counts, ConstTensorView values, const RowGroups& groups,
                    double scale, Stream& stream) {
  const std::int64_t rows = values.dim(0), width = values.dim(1);
  if (rows == 0) return;
  auto* factors = scratch<double>(stream, Scratch::partials, rows);
  visit_element("add_directions", values.dtype(), [&]<typename T>() {
    launch(row_factors_kernel<T>, grid_size(blocks_for(rows, threads)), threads, 0, stream, factors,
           values.data<T>(), rows, width, scale);
  });
  launch(count_directions_kernel, grid_size(counts.dim(0)), threads, 0, stream, counts.data<std::int64_t>(),
         static_cast<const double*>(factors), groups.rows.data<std::int32_t>(),
         groups.begins.data<std::int32_t>());
  fold_groups("add_directions", SumDirections{sums.data<std::int64_t>(), factors}, values, groups, stream);
}

}  // namespace nmoe::ops::cuda

// Moving rows about: gather, combine, and sums of rows by id. Every sum runs in the order of the CPU's loops.
#include <cstring>

#include "device/elements.cuh"
#include "launch.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "scratch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int threads = 128;
constexpr int most_choices = 64;

/// Rows as units of 16, 4 or 2 bytes.
template <typename Unit>
__global__ __launch_bounds__(threads) void gather_kernel(Unit* to, const Unit* from,
                                                         const std::int32_t* source, std::int64_t units) {
  const std::int64_t row = blockIdx.x, at = source[row];
  for (std::int64_t i = threadIdx.x; i < units; i += threads) to[row * units + i] = from[at * units + i];
}

/// order[] = choices of token `t` by ascending expert id (equal ids: by choice).
__device__ void order_choices(int (&order)[most_choices], const std::int32_t* ids, int top_k) {
  for (int j = static_cast<int>(threadIdx.x); j < top_k; j += threads) {
    int rank = 0;
    for (int i = 0; i < top_k; ++i) rank += ids[i] < ids[j] || (ids[i] == ids[j] && i < j) ? 1 : 0;
    order[rank] = j;
  }
  __syncthreads();
}

/// With `rounded`, every product and every partial sum is rounded to T.
template <bool rounded, int N, typename T>
__global__ __launch_bounds__(threads) void combine_forward_kernel(T* y, const T* rows,
                                                                  const std::int32_t* row_of_slot,
                                                                  const std::int32_t* indices,
                                                                  const float* weights, int top_k,
                                                                  std::int64_t width, bool accumulate) {
  __shared__ int order[most_choices];
  const std::int64_t token = blockIdx.x, first_slot = token * top_k;
  order_choices(order, indices + first_slot, top_k);
  for (std::int64_t i = std::int64_t{threadIdx.x} * N; i < width; i += threads * N) {
    Pack<float, N> sum{};
    for (int c = 0; c < top_k; ++c) {
      const std::int64_t slot = first_slot + order[c], row = row_of_slot[slot];
      if (row < 0) continue;
      const float weight = weights != nullptr ? weights[slot] : 1.0F;
      const auto values = load_floats<N>(rows + row * width + i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if constexpr (rounded) {
          const float product = to_float(from_float<T>(weight * values.values[j]));
          sum.values[j] = to_float(from_float<T>(sum.values[j] + product));
        } else {
          sum.values[j] += weight * values.values[j];
        }
      }
    }
    if (accumulate) {
      const auto before = load_floats<N>(y + token * width + i);
#pragma unroll
      for (int j = 0; j < N; ++j) sum.values[j] = before.values[j] + sum.values[j];
    }
    store_floats<N>(y + token * width + i, sum);
  }
}

template <int N, typename T>
__global__ __launch_bounds__(threads) void combine_backward_kernel(T* drows, float* dweights, const T* dy,
                                                                   const T* rows,
                                                                   const std::int32_t* row_of_slot,
                                                                   const float* weights, int top_k,
                                                                   std::int64_t width) {
  const std::int64_t slot = blockIdx.x, row = row_of_slot[slot], token = slot / top_k;
  float dot = 0.0F;
  for (std::int64_t i = std::int64_t{threadIdx.x} * N; row >= 0 && i < width; i += threads * N) {
    auto grad = load_floats<N>(dy + token * width + i);
    const auto values = load_floats<N>(rows + row * width + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      dot += grad.values[j] * values.values[j];
      grad.values[j] *= weights[slot];
    }
    store_floats<N>(drows + row * width + i, grad);
  }
  dot = fold_block<threads>(dot);
  if (threadIdx.x == 0) dweights[slot] = dot;
}

__global__ __launch_bounds__(threads) void count_up_kernel(std::int32_t* values, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) values[i] = static_cast<std::int32_t>(i);
}

/// One block per position of the sorted ids and piece of the columns; the block at the first position of an
/// id adds all rows of that id, ascending, to its sum.
template <typename T>
__global__ __launch_bounds__(threads) void add_runs_kernel(float* sums, const T* values,
                                                           const std::int32_t* ids,
                                                           const std::int32_t* source, std::int64_t count,
                                                           std::int64_t width) {
  const std::int64_t first = blockIdx.x, id = ids[first];
  if (first > 0 && ids[first - 1] == id) return;
  const std::int64_t column = std::int64_t{blockIdx.y} * threads + threadIdx.x;
  if (column >= width) return;
  float sum = sums[id * width + column];
  for (std::int64_t i = first; i < count && ids[i] == id; ++i)
    sum += to_float(values[source[i] * width + column]);
  sums[id * width + column] = sum;
}

/// Ids in ascending order and the rows they come from; equal ids keep their order.
struct SortedIds {
  const std::int32_t *ids, *source;
};
SortedIds sort_ids(ConstTensorView ids, Stream& stream) {
  const std::int64_t count = ids.num_elements();
  auto* memory = scratch<std::int32_t>(stream, Scratch::keys, 3 * count);
  std::int32_t *rows = memory, *sorted_ids = memory + count, *sorted_rows = memory + 2 * count;
  launch(count_up_kernel, grid_size(blocks_for(count, threads)), threads, 0, stream, rows, count);
  std::size_t bytes = 0;
  sort_pairs(nullptr, bytes, ids.data<std::int32_t>(), sorted_ids, rows, sorted_rows, count, stream);
  void* temporary = scratch_bytes(stream, Scratch::sort, static_cast<std::int64_t>(bytes));
  sort_pairs(temporary, bytes, ids.data<std::int32_t>(), sorted_ids, rows, sorted_rows, count, stream);
  return {sorted_ids, sorted_rows};
}

}  // namespace

void gather_rows(TensorView rows, ConstTensorView x, ConstTensorView token_of_row, Stream& stream) {
  const std::int64_t bytes = rows.dim(1) * size_of(x.dtype());
  const auto copy = [&]<typename Unit>(Unit) {
    launch(gather_kernel<Unit>, grid_size(rows.dim(0)), threads, 0, stream, static_cast<Unit*>(rows.raw()),
           static_cast<const Unit*>(x.raw()), token_of_row.data<std::int32_t>(),
           bytes / static_cast<std::int64_t>(sizeof(Unit)));
  };
  if (fits_packs(rows.dim(1), {rows, x})) {
    copy(uint4{});
  } else if (size_of(x.dtype()) == 4) {
    copy(std::uint32_t{});
  } else {
    NMOE_CHECK(size_of(x.dtype()) == 2, config, "gather_rows: no CUDA kernel for {}", name_of(x.dtype()));
    copy(std::uint16_t{});
  }
}

void embedding_forward(TensorView y, ConstTensorView ids, ConstTensorView table, Stream& stream) {
  gather_rows(y, table, ids, stream);
}

void embedding_backward(TensorView dtable, ConstTensorView dy, ConstTensorView ids, Stream& stream) {
  const std::int64_t count = dy.dim(0), width = dy.dim(1);
  if (count == 0 || width == 0) return;
  const SortedIds sorted = sort_ids(ids, stream);
  visit_element("embedding_backward", dy.dtype(), [&]<typename T>() {
    launch(add_runs_kernel<T>, dim3(grid_size(count), grid_size(blocks_for(width, threads))), threads, 0,
           stream, dtable.data<float>(), dy.data<T>(), sorted.ids, sorted.source, count, width);
  });
}

namespace {
template <bool rounded>
void combine(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot, ConstTensorView indices,
             ConstTensorView weights, bool accumulate, Stream& stream) {
  const std::int64_t top_k = indices.dim(1), width = y.dim(1);
  NMOE_CHECK(top_k <= most_choices, config, "combine_forward: top_k {} is larger than {}", top_k,
             most_choices);
  visit_element("combine_forward", y.dtype(), [&]<typename T>() {
    visit_pack<full_pack<T>>(fits_packs(width, {y, rows}), [&]<int n>() {
      launch(combine_forward_kernel<rounded, n, T>, grid_size(y.dim(0)), threads, 0, stream, y.data<T>(),
             rows.data<T>(), row_of_slot.data<std::int32_t>(), indices.data<std::int32_t>(),
             weights ? weights.data<float>() : nullptr, static_cast<int>(top_k), width, accumulate);
    });
  });
}
}  // namespace

void combine_forward(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot, ConstTensorView indices,
                     ConstTensorView weights, bool accumulate, Stream& stream) {
  combine<false>(y, rows, row_of_slot, indices, weights, accumulate, stream);
}

void combine_forward_rounded(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot,
                             ConstTensorView indices, ConstTensorView weights, Stream& stream) {
  combine<true>(y, rows, row_of_slot, indices, weights, false, stream);
}

void combine_backward(TensorView drows, TensorView dweights, ConstTensorView dy, ConstTensorView rows,
                      ConstTensorView row_of_slot, ConstTensorView weights, Stream& stream) {
  const std::int64_t top_k = row_of_slot.dim(1), width = dy.dim(1);
  visit_element("combine_backward", dy.dtype(), [&]<typename T>() {
    visit_pack<full_pack<T>>(fits_packs(width, {drows, dy, rows}), [&]<int n>() {
      launch(combine_backward_kernel<n, T>, grid_size(row_of_slot.num_elements()), threads, 0, stream,
             drows.data<T>(), dweights.data<float>(), dy.data<T>(), rows.data<T>(),
             row_of_slot.data<std::int32_t>(), weights.data<float>(), static_cast<int>(top_k), width);
    });
  });
}

}  // namespace nmoe::ops::cuda

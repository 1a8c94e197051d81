// The order of permuted rows as a stable counting sort: slots per expert and block, where each block's rows
// of each expert begin, and each slot's rank among its block's slots of the same expert. No atomics: one
// layout for one input.
#include "device/elements.cuh"
#include "launch.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "scratch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int threads = 256;

/// Expert of this thread's slot, -1 past the end; also in `chosen` for the other threads of the block.
__device__ std::int32_t share_choices(std::int32_t (&chosen)[threads], const std::int32_t* indices,
                                      std::int64_t slots) {
  const std::int64_t slot = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  const std::int32_t mine = slot < slots ? indices[slot] : -1;
  chosen[threadIdx.x] = mine;
  __syncthreads();
  return mine;
}

/// block_counts[block, e] = slots of expert e in the block.
__global__ __launch_bounds__(threads) void count_slots_kernel(std::int32_t* block_counts,
                                                              const std::int32_t* indices, std::int64_t slots,
                                                              int experts) {
  __shared__ std::int32_t chosen[threads];
  share_choices(chosen, indices, slots);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += threads) {
    std::int32_t count = 0;
    for (const std::int32_t expert : chosen) count += expert == e ? 1 : 0;
    block_counts[std::int64_t{blockIdx.x} * experts + e] = count;
  }
}

/// One block. counts[e] over all blocks; block_counts become first rows.
__global__ __launch_bounds__(threads) void first_rows_kernel(std::int32_t* block_counts, std::int64_t* counts,
                                                             const std::int32_t* place, std::int64_t blocks,
                                                             int experts) {
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += threads) {
    std::int64_t count = 0;
    for (std::int64_t b = 0; b < blocks; ++b) count += block_counts[b * experts + e];
    counts[e] = count;
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += threads) {
    std::int64_t row = 0;
    for (int f = 0; f < experts; ++f) row += place[f] < place[e] ? counts[f] : 0;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int32_t here = block_counts[b * experts + e];
      block_counts[b * experts + e] = static_cast<std::int32_t>(row);
      row += here;
    }
  }
}

__global__ __launch_bounds__(threads) void place_slots_kernel(std::int32_t* token_of_row,
                                                              std::int32_t* row_of_slot,
                                                              const std::int32_t* first_rows,
                                                              const std::int32_t* indices, std::int64_t slots,
                                                              int experts, int top_k) {
  __shared__ std::int32_t chosen[threads];
  const std::int32_t mine = share_choices(chosen, indices, slots);
  if (mine < 0) return;
  std::int32_t row = first_rows[std::int64_t{blockIdx.x} * experts + mine];
  for (unsigned i = 0; i < threadIdx.x; ++i) row += chosen[i] == mine ? 1 : 0;
  const std::int64_t slot = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  token_of_row[row] = static_cast<std::int32_t>(slot / top_k);
  row_of_slot[slot] = row;
}

}  // namespace

void lay_out_rows(TensorView token_of_row, TensorView row_of_slot, TensorView counts, ConstTensorView indices,
                  ConstTensorView place_of_expert, Stream& stream) {
  const std::int64_t slots = indices.num_elements(), blocks = blocks_for(slots, threads);
  const int experts = static_cast<int>(counts.num_elements());
  auto* block_counts = scratch<std::int32_t>(stream, Scratch::keys, blocks * experts);
  launch(count_slots_kernel, grid_size(blocks), threads, 0, stream, block_counts,
         indices.data<std::int32_t>(), slots, experts);
  launch(first_rows_kernel, 1, threads, 0, stream, block_counts, counts.data<std::int64_t>(),
         place_of_expert.data<std::int32_t>(), blocks, experts);
  launch(place_slots_kernel, grid_size(blocks), threads, 0, stream, token_of_row.data<std::int32_t>(),
         row_of_slot.data<std::int32_t>(), static_cast<const std::int32_t*>(block_counts),
         indices.data<std::int32_t>(), slots, experts, static_cast<int>(indices.dim(1)));
}

}  // namespace nmoe::ops::cuda

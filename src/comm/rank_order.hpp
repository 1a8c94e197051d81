#pragma once
// Reductions in ascending rank order: the same bits on every rank, every run, every transport and every
// message pattern. Shared by the transports, mpi/ and nccl/.
#include <cstdint>
#include <span>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm::detail {

/// How an all-reduce is done, on every transport alike.
enum class ReducePath {
  library,   ///< by MPI or NCCL: integers give the same bits in any order
  gathered,  ///< small: everybody gathers everything and sums it, in one round of messages
  sliced     ///< rank r sums slice r of everybody, then hands it out
};
ReducePath reduce_path(DType dtype, std::int64_t count, std::int64_t small_reduce_bytes);

/// Elements of an all-reduce that one rank sums.
struct Slice {
  std::int64_t begin, count;
};
/// Returns the slice of rank `rank` of `size` when `count` elements are cut as evenly as can be.
Slice slice_of(std::int64_t count, int rank, int size);

/// result[i] = op over r of sources[r][i], r ascending. `result` may be one of the sources. bfloat16 is
/// accumulated in float32 and rounded once. min/max: a NaN anywhere gives NaN.
void reduce_in_rank_order(DType dtype, ReduceOp op, std::span<const void* const> sources, void* result,
                          std::int64_t num_elements);

}  // namespace nmoe::comm::detail

#pragma once
// Reductions in ascending rank order: the same bits on every rank, every run and every message pattern.
#include <cstdint>
#include <span>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm::detail {

/// result[i] = op over r of sources[r][i], r ascending. `result` may be one of the sources. bfloat16 is
/// accumulated in float32 and rounded once. min/max: a NaN anywhere gives NaN.
void reduce_in_rank_order(DType dtype, ReduceOp op, std::span<const void* const> sources, void* result,
                          std::int64_t num_elements);

}  // namespace nmoe::comm::detail

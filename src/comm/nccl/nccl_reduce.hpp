#pragma once
// The one kernel of comm: reductions in ascending rank order on the GPU.
#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm::detail {

/// result[i] = op over r = 0, 1, ... of parts[r * count + i], for `count` elements of a floating type; the
/// same bits as reduce_in_rank_order. Device memory; bound by its bandwidth.
void reduce_parts(DType dtype, ReduceOp op, const void* parts, int num_parts, void* result,
                  std::int64_t count, Stream& stream);

}  // namespace nmoe::comm::detail

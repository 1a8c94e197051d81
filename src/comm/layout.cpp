// Groups of ranks, and the slices of tensors that each of them owns, by arithmetic alone.
#include "neuronmoe/comm/layout.hpp"

#include <algorithm>

#include "neuronmoe/base/divisor.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::comm {

ParallelLayout::ParallelLayout(int world_size, int rank, int expert_parallel_size)
    : world_size_(world_size), rank_(rank), expert_parallel_size_(expert_parallel_size) {
  NMOE_CHECK(world_size >= 1 && rank >= 0 && rank < world_size, internal, "rank {} of {} ranks", rank,
             world_size);
  NMOE_CHECK(
      expert_parallel_size >= 1 && world_size % expert_parallel_size == 0, config,
      "expert_parallel_size {} does not divide the {} ranks of this run; the nearest value that does is {}",
      expert_parallel_size, world_size, nearest_divisor(world_size, expert_parallel_size));
}

ShardMap::ShardMap(std::span<const std::int64_t> tensor_sizes, int group_size) {
  NMOE_CHECK(group_size >= 1, internal, "group_size {}", group_size);
  std::int64_t num_blocks = 0;
  for (const std::int64_t size : tensor_sizes) {
    NMOE_CHECK(size >= 0, internal, "tensor of {} elements", size);
    num_blocks += (size + block - 1) / block;
    num_total_ += size;
  }
  slices_.resize(static_cast<std::size_t>(group_size));
  for (std::int64_t r = 0; r < group_size; ++r) {
    const std::int64_t first = num_blocks * r / group_size, last = num_blocks * (r + 1) / group_size;
    std::int64_t tensor_first = 0;  // number of the tensor's first block
    for (std::size_t t = 0; t < tensor_sizes.size(); ++t) {
      const std::int64_t tensor_last = tensor_first + (tensor_sizes[t] + block - 1) / block;
      const std::int64_t lo = std::max(first, tensor_first), hi = std::min(last, tensor_last);
      if (lo < hi) {
        slices_[static_cast<std::size_t>(r)].push_back(
            {static_cast<std::int64_t>(t), (lo - tensor_first) * block,
             std::min((hi - tensor_first) * block, tensor_sizes[t])});
      }
      tensor_first = tensor_last;
    }
  }
}

std::int64_t ShardMap::num_owned(int rank) const {
  std::int64_t count = 0;
  for (const Slice& slice : slices(rank)) count += slice.size();
  return count;
}

}  // namespace nmoe::comm

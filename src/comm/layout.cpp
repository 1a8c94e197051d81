#include "neuronmoe/comm/layout.hpp"

#include <algorithm>
#include <numeric>

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

ExpertPlacement::ExpertPlacement(std::span<const int> num_experts, int expert_parallel_size)
    : expert_parallel_size_(expert_parallel_size) {
  NMOE_CHECK(expert_parallel_size >= 1, internal, "expert_parallel_size {}", expert_parallel_size);
  std::vector<std::size_t> order(num_experts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return num_experts[a] > num_experts[b]; });
  owner_.resize(num_experts.size());
  std::vector<std::int64_t> load(static_cast<std::size_t>(expert_parallel_size), 0);
  for (const std::size_t layer : order) {
    NMOE_CHECK(num_experts[layer] >= 1, config, "layer {} has {} experts; the frozen base alone is 1", layer,
               num_experts[layer]);
    owner_[layer].assign(static_cast<std::size_t>(num_experts[layer]), -1);
    for (std::size_t expert = 1; expert < owner_[layer].size(); ++expert) {
      const auto least = std::min_element(load.begin(), load.end());  // the lower position of equal ones
      ++*least;
      owner_[layer][expert] = static_cast<int>(least - load.begin());
    }
  }
}

int ExpertPlacement::owner(int layer, int expert_id) const {
  NMOE_CHECK(layer >= 0 && static_cast<std::size_t>(layer) < owner_.size(), internal, "layer {} of {}", layer,
             owner_.size());
  const auto& experts = owner_[static_cast<std::size_t>(layer)];
  NMOE_CHECK(expert_id >= 1 && static_cast<std::size_t>(expert_id) < experts.size(), internal,
             "expert {} of layer {}: owned experts are 1..{}", expert_id, layer, experts.size() - 1);
  return experts[static_cast<std::size_t>(expert_id)];
}

std::vector<int> ExpertPlacement::experts_on(int layer, int expert_parallel_rank) const {
  NMOE_CHECK(layer >= 0 && static_cast<std::size_t>(layer) < owner_.size(), internal, "layer {} of {}", layer,
             owner_.size());
  const auto& experts = owner_[static_cast<std::size_t>(layer)];
  std::vector<int> ids;
  for (std::size_t e = 1; e < experts.size(); ++e) {
    if (experts[e] == expert_parallel_rank) ids.push_back(static_cast<int>(e));
  }
  return ids;
}

std::string ExpertPlacement::to_string() const {
  std::string text;
  for (int r = 0; r < expert_parallel_size_; ++r) {
    std::size_t total = 0;
    std::string layers;
    for (std::size_t layer = 0; layer < owner_.size(); ++layer) {
      const std::vector<int> ids = experts_on(static_cast<int>(layer), r);
      if (ids.empty()) continue;
      total += ids.size();
      layers += fmt::format(" {}:", layer);
      for (std::size_t i = 0; i < ids.size(); ++i) layers += fmt::format("{}{}", i > 0 ? "," : "", ids[i]);
    }
    text += fmt::format("expert-parallel rank {}: {} experts (layer:ids){}\n", r, total,
                        layers.empty() ? " none" : layers);
  }
  return text;
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

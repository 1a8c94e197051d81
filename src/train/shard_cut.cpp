// Sizes of messages and partial sums of a group of parameters.
#include "neuronmoe/train/shard_cut.hpp"

#include <algorithm>
#include <bit>
#include <map>

namespace nmoe::train {

ShardCut::ShardCut(std::span<const int> segments, std::span<const std::int64_t> sizes, int group_size,
                   int leaves, const ReduceOptions& options)
    : group_size_(group_size),
      leaves_(leaves),
      options_(options),
      bucket_elements_(std::max<std::int64_t>(
          1, options.bucket_bytes / (size_of(options.wire_dtype) * group_size * leaves))) {
  std::map<int, std::vector<std::int64_t>> tensors;
  for (std::size_t i = 0; i < segments.size(); ++i)
    tensors[segments[i]].push_back(static_cast<std::int64_t>(i));
  for (auto& [segment, list] : tensors) {
    std::vector<std::int64_t> of_unit;
    for (const std::int64_t t : list) of_unit.push_back(sizes[static_cast<std::size_t>(t)]);
    units_.push_back({segment, std::move(list), comm::ShardMap(of_unit, group_size)});
  }
}

std::int64_t ShardCut::most_owned(std::size_t unit) const {
  std::int64_t most = 0;
  for (int r = 0; r < group_size_; ++r) most = std::max(most, units_[unit].map.num_owned(r));
  return most;
}

std::int64_t ShardCut::num_buckets(std::size_t unit) const {
  return (most_owned(unit) + bucket_elements_ - 1) / bucket_elements_;
}

std::int64_t ShardCut::part(std::size_t unit, int rank, std::int64_t bucket) const {
  return std::clamp<std::int64_t>(units_[unit].map.num_owned(rank) - bucket * bucket_elements_, 0,
                                  bucket_elements_);
}

int ShardCut::nodes_of(int count) const {
  const bool sum_is_a_node = options_.wire_dtype == DType::float32 && count == leaves_ && leaves_ > 1 &&
                             std::has_single_bit(static_cast<unsigned>(leaves_));
  return sum_is_a_node ? 1 : count;
}

std::int64_t ShardCut::most_total() const {
  std::int64_t most = 0;
  for (std::size_t u = 0; u < units_.size(); ++u) {
    std::int64_t total = 0;
    for (int r = 0; r < group_size_; ++r) total += part(u, r, 0);
    most = std::max(most, total);
  }
  return most;
}

std::int64_t ShardCut::most_part() const {
  std::int64_t most = 0;
  for (std::size_t u = 0; u < units_.size(); ++u)
    most = std::max(most, std::min(bucket_elements_, most_owned(u)));
  return most;
}

std::int64_t ShardCut::send_bytes(std::int64_t value_bytes) const {
  return std::max(most_total() * leaves_ * size_of(options_.wire_dtype), most_part() * value_bytes);
}

std::int64_t ShardCut::receive_bytes(std::int64_t value_bytes) const {
  return std::max(most_part() * leaves_ * group_size_ * size_of(options_.wire_dtype),
                  most_total() * value_bytes);
}

std::int64_t ShardCut::rounded_bytes() const {
  const bool rounds = group_size_ == 1 && options_.wire_dtype != DType::float32;
  return rounds ? most_part() * size_of(options_.wire_dtype) : 0;
}

/// Messages on their way, of one reduction or of two that follow each other; gathers use their buffers.
std::int64_t ShardCut::flight_bytes(std::size_t num_reductions, std::int64_t value_bytes) const {
  if (group_size_ == 1) return 0;
  std::int64_t buckets = 0;
  for (std::size_t u = 0; u < units_.size(); ++u) buckets += num_buckets(u);
  const std::int64_t reductions = options_.overlap ? buckets * static_cast<std::int64_t>(num_reductions)
                                                   : std::min<std::int64_t>(buckets, 1),
                     gathers = options_.zero ? buckets : 0;
  return std::min<std::int64_t>(max_in_flight, std::max(reductions, gathers)) *
         (send_bytes(value_bytes) + receive_bytes(value_bytes));
}

/// Leaves before they are rounded and sent: a pool keeps a buffer of every size it was asked for.
std::int64_t ShardCut::packing_bytes(int me, const std::vector<std::vector<int>>& counts) const {
  if (group_size_ == 1) return 0;
  std::int64_t at_once = 0;
  for (const std::vector<int>& of_sources : counts) {
    const int mine = of_sources[static_cast<std::size_t>(me)];
    if (mine == 0) continue;
    const int sum_of = mine / nodes_of(mine);
    at_once = std::max<std::int64_t>(at_once, std::bit_width(static_cast<unsigned>(sum_of)));
  }
  std::map<std::int64_t, std::int64_t> buffers;  // of each size
  for (std::size_t u = 0; u < units_.size(); ++u) {
    for (int r = 0; r < group_size_; ++r) {
      for (std::int64_t b = 0; b < num_buckets(u); ++b) buffers[part(u, r, b)] = at_once;
    }
  }
  if (!options_.zero) {  // of the whole slice, to gather gradients
    for (const ShardUnit& unit : units_) {
      std::int64_t& n = buffers[unit.map.num_owned(me)];
      n = std::max<std::int64_t>(n, 1);
    }
  }
  std::int64_t bytes = 0;
  for (const auto& [size, n] : buffers) bytes += 4 * size * n;
  return bytes;
}

std::int64_t ShardCut::buffer_bytes(int me, const std::vector<std::vector<int>>& counts,
                                    std::int64_t value_bytes) const {
  if (units_.empty()) return 0;
  return flight_bytes(counts.size(), value_bytes) + rounded_bytes() + packing_bytes(me, counts);
}

/// Sums of a binary counter that wait between reductions and while one is folded, per size.
std::int64_t ShardCut::partial_sum_bytes(int me, const std::vector<std::vector<int>>& counts) const {
  std::map<std::int64_t, std::int64_t> buckets;  // of each size
  for (std::size_t u = 0; u < units_.size(); ++u) {
    for (std::int64_t b = 0; b < num_buckets(u); ++b) ++buckets[part(u, me, b)];
  }
  std::uint64_t num_leaves = 0, done = 0;
  for (const std::vector<int>& of_sources : counts) {
    for (const int n : of_sources) num_leaves += static_cast<std::uint64_t>(n);
  }
  if (group_size_ == 1 && num_leaves == 1) return 0;
  std::vector<std::pair<std::int64_t, std::int64_t>> peaks;  // per reduction: other buckets, the one folded
  for (const std::vector<int>& of_sources : counts) {
    const std::int64_t before = std::popcount(done);
    std::int64_t folding = 0;
    for (const int n : of_sources) {
      const int step = group_size_ > 1 && n > 0 ? n / nodes_of(n) : 1;
      for (int leaf = 0; leaf < n; leaf += step) {
        folding = std::max<std::int64_t>(folding, std::popcount(done) + 1);
        done += static_cast<std::uint64_t>(step);
      }
    }
    peaks.emplace_back(std::max<std::int64_t>(before, done < num_leaves ? std::popcount(done) : 0), folding);
  }
  std::int64_t bytes = 0;
  for (const auto& [size, n] : buckets) {
    std::int64_t most = 0;
    for (const auto& [waiting, folding] : peaks) most = std::max(most, (n - 1) * waiting + folding);
    bytes += 4 * size * most;
  }
  return bytes;
}

}  // namespace nmoe::train

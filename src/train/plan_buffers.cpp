// Message buffers and partial sums of a group of parameters, followed as ShardGroup takes them.
#include <algorithm>
#include <bit>
#include <map>

#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

/// One group as a rank sees it.
struct Group {
  const ReduceOptions& options;
  int size, me, leaves;
  std::vector<ShardUnit> units;
  std::int64_t bucket;                   // most elements of a rank in a bucket
  std::vector<std::vector<int>> counts;  // [reduction of a step][source rank] leaves

  Group(const PlanShape& shape, bool experts)
      : options(shape.reduce),
        size(experts ? shape.layout.expert_data_parallel_size() : shape.layout.world_size()),
        me(experts ? shape.layout.expert_data_parallel_rank() : shape.layout.rank()),
        leaves(experts ? shape.layout.expert_parallel_size() : 1),
        units(shape.units(experts)),
        bucket(bucket_elements(options, size, leaves)) {
    for (std::int64_t s = 0; s < num_reductions(shape.input); ++s)
      counts.push_back(leaf_counts(shape.layout, experts, s, shape.input.num_micro_batches()));
  }
  std::int64_t most_owned(const ShardUnit& unit) const {
    std::int64_t most = 0;
    for (int r = 0; r < size; ++r) most = std::max(most, unit.map.num_owned(r));
    return most;
  }
  std::int64_t num_buckets(const ShardUnit& unit) const { return (most_owned(unit) + bucket - 1) / bucket; }
  /// Elements of a rank in a bucket of a unit.
  std::int64_t part(const ShardUnit& unit, int rank, std::int64_t number) const {
    return std::clamp<std::int64_t>(unit.map.num_owned(rank) - number * bucket, 0, bucket);
  }
  bool sends_sum(int count) const { return sends_sum_of_leaves(options, count, leaves); }
};

/// Two messages at most are on their way, of one reduction or of two that follow each other; gathers use
/// their buffers.
std::int64_t flight_bytes(const Group& group, std::int64_t element) {
  std::int64_t most_total = 0, most_part = 0, buckets = 0;
  for (const ShardUnit& unit : group.units) {
    std::int64_t total = 0;
    for (int r = 0; r < group.size; ++r) total += group.part(unit, r, 0);
    most_total = std::max(most_total, total);
    most_part = std::max(most_part, std::min(group.bucket, group.most_owned(unit)));
    buckets += group.num_buckets(unit);
  }
  const std::int64_t wire = size_of(group.options.wire_dtype);
  if (group.size == 1) return group.options.wire_dtype != DType::float32 ? most_part * wire : 0;
  const std::int64_t send = std::max(most_total * group.leaves * wire, most_part * element),
                     receive = std::max(most_part * group.leaves * group.size * wire, most_total * element);
  const std::int64_t reductions = group.options.overlap
                                      ? buckets * static_cast<std::int64_t>(group.counts.size())
                                      : std::min<std::int64_t>(buckets, 1),
                     gathers = group.options.zero ? buckets : 0;
  return std::min<std::int64_t>(2, std::max(reductions, gathers)) * (send + receive);
}

/// Leaves before they are rounded and sent: a pool keeps a buffer of every size it was asked for.
std::int64_t packing_bytes(const Group& group) {
  if (group.size == 1) return 0;
  std::int64_t at_once = 0;
  for (const std::vector<int>& counts : group.counts) {
    const int mine = counts[static_cast<std::size_t>(group.me)];
    const int sum_of = group.sends_sum(mine) ? mine : 1;
    if (mine > 0) at_once = std::max<std::int64_t>(at_once, std::bit_width(static_cast<unsigned>(sum_of)));
  }
  std::map<std::int64_t, std::int64_t> buffers;  // of each size
  for (const ShardUnit& unit : group.units) {
    for (int r = 0; r < group.size; ++r) {
      for (std::int64_t b = 0; b < group.num_buckets(unit); ++b) buffers[group.part(unit, r, b)] = at_once;
    }
  }
  if (!group.options.zero) {  // of the whole slice, to gather gradients
    for (const ShardUnit& unit : group.units) {
      std::int64_t& n = buffers[unit.map.num_owned(group.me)];
      n = std::max<std::int64_t>(n, 1);
    }
  }
  std::int64_t bytes = 0;
  for (const auto& [size, n] : buffers) bytes += 4 * size * n;
  return bytes;
}

/// Sums of a binary counter that wait between reductions and while one is folded, likewise per size.
std::int64_t partial_sum_bytes(const Group& group) {
  std::map<std::int64_t, std::int64_t> buckets;  // of each size
  for (const ShardUnit& unit : group.units) {
    for (std::int64_t b = 0; b < group.num_buckets(unit); ++b) ++buckets[group.part(unit, group.me, b)];
  }
  std::uint64_t num_leaves = 0, done = 0;
  for (const std::vector<int>& counts : group.counts) {
    for (const int n : counts) num_leaves += static_cast<std::uint64_t>(n);
  }
  if (group.size == 1 && num_leaves == 1) return 0;
  std::vector<std::pair<std::int64_t, std::int64_t>> peaks;  // per reduction: other buckets, the one folded
  for (const std::vector<int>& counts : group.counts) {
    const std::int64_t before = std::popcount(done);
    std::int64_t folding = 0;
    for (const int n : counts) {
      const int step = group.size > 1 && group.sends_sum(n) ? n : 1;
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

}  // namespace

BufferPlan plan_buffers(const PlanShape& shape) {
  BufferPlan plan;
  for (const bool experts : {false, true}) {
    const Group group(shape, experts);
    if (group.units.empty()) continue;
    plan.messages += flight_bytes(group, shape.element) + packing_bytes(group);
    plan.partial_sums += partial_sum_bytes(group);
  }
  return plan;
}

}  // namespace nmoe::train

#pragma once
// The cut of one group of parameters over the ranks of a communicator, and the sizes of all that follows from
// it: pure arithmetic. ShardGroup sizes its buffers by it, `neuronmoe plan` adds them up.
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/comm/layout.hpp"
#include "neuronmoe/train/reduce_options.hpp"

namespace nmoe::train {

/// The tensors whose gradients one backward segment completes, cut over the ranks.
struct ShardUnit {
  int segment;
  std::vector<std::int64_t> tensors;  ///< positions in the group's list
  comm::ShardMap map;                 ///< of those tensors
};

/// Units travel in buckets: of each rank's part at most bucket_elements() at a time.
class ShardCut {
 public:
  /// Buckets on their way at once: one travels while the next is packed.
  static constexpr std::size_t max_in_flight = 2;

  /// @param segments, sizes of tensor i   @param leaves per source rank
  ShardCut(std::span<const int> segments, std::span<const std::int64_t> sizes, int group_size, int leaves,
           const ReduceOptions& options);

  const std::vector<ShardUnit>& units() const { return units_; }  ///< in backward order
  std::int64_t bucket_elements() const { return bucket_elements_; }
  std::int64_t num_buckets(std::size_t unit) const;
  /// Returns the elements of a rank in a bucket of a unit.
  std::int64_t part(std::size_t unit, int rank, std::int64_t bucket) const;
  /// Returns how many tensors a source with `count` of its leaves sends for them: one where their sum is a
  /// node of the one summation tree (DESIGN 6), else each.
  int nodes_of(int count) const;

  /// Returns the bytes of a message buffer, and of a bucket rounded in place on one rank (0: none is).
  /// `value_bytes`: of a weight.
  std::int64_t send_bytes(std::int64_t value_bytes) const;
  std::int64_t receive_bytes(std::int64_t value_bytes) const;
  std::int64_t rounded_bytes() const;

  /// Returns the bytes of all message buffers of rank `me` after a step. `counts`: leaves with a micro-batch
  /// [reduction of a step][source rank].
  std::int64_t buffer_bytes(int me, const std::vector<std::vector<int>>& counts,
                            std::int64_t value_bytes) const;
  /// Returns the bytes of partial sums of gradients that it needs at once, likewise.
  std::int64_t partial_sum_bytes(int me, const std::vector<std::vector<int>>& counts) const;

 private:
  std::int64_t most_owned(std::size_t unit) const;
  /// Returns the most elements of a message from one source, and of all that a rank owns in a bucket.
  std::int64_t most_total() const;
  std::int64_t most_part() const;
  std::int64_t flight_bytes(std::size_t num_reductions, std::int64_t value_bytes) const;
  std::int64_t packing_bytes(int me, const std::vector<std::vector<int>>& counts) const;

  std::vector<ShardUnit> units_;
  int group_size_, leaves_;
  ReduceOptions options_;
  std::int64_t bucket_elements_;
};

}  // namespace nmoe::train

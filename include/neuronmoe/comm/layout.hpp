#pragma once
// Who is where: pure arithmetic, no communication (DESIGN 2, "mapping"). Used by train, model and io.
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace nmoe::comm {

/// Returns the first of `n` elements that rank `rank` of `size` has: ranks in order, shares that differ by at
/// most one, the longer ones first. Of rank `size`: n.
constexpr std::int64_t slice_begin(std::int64_t n, int rank, int size) {
  return n / size * rank + std::min<std::int64_t>(rank, n % size);
}

/// Data-parallel group = world; expert-parallel group = `expert_parallel_size` consecutive ranks;
/// expert-data-parallel group = the ranks at the same position of each expert-parallel group.
class ParallelLayout {
 public:
  /// @throws Error(config) unless expert_parallel_size divides world_size; the message names the nearest
  /// valid value.
  ParallelLayout(int world_size, int rank, int expert_parallel_size);
  int world_size() const { return world_size_; }
  int rank() const { return rank_; }
  int expert_parallel_size() const { return expert_parallel_size_; }
  int expert_parallel_rank() const { return rank_ % expert_parallel_size_; }
  int expert_parallel_group() const { return rank_ / expert_parallel_size_; }
  int expert_data_parallel_size() const { return world_size_ / expert_parallel_size_; }
  int expert_data_parallel_rank() const { return expert_parallel_group(); }

 private:
  int world_size_, rank_, expert_parallel_size_;
};

/// A contiguous piece of one tensor: elements [begin, end) of tensor number `tensor`.
struct Slice {
  std::int64_t tensor, begin, end;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Slice&) const = default;
};

/// ZeRO-2: which slices of a list of tensors each rank of a group updates. The list is cut into blocks of
/// 4096 elements (a tensor's last block may be shorter); rank r of R takes blocks [B·r/R, B·(r+1)/R). Slice
/// boundaries are therefore multiples of the block or a tensor's end (DESIGN 6). Uneven and empty slices are
/// normal.
class ShardMap {
 public:
  static constexpr std::int64_t block = 4096;
  ShardMap(std::span<const std::int64_t> tensor_sizes, int group_size);
  int group_size() const { return static_cast<int>(slices_.size()); }
  /// Slices of rank `rank`, in tensor order; at most one per tensor.
  const std::vector<Slice>& slices(int rank) const { return slices_[static_cast<std::size_t>(rank)]; }
  /// Returns how many elements rank `rank` owns.
  std::int64_t num_owned(int rank) const;
  std::int64_t num_total() const { return num_total_; }

 private:
  std::vector<std::vector<Slice>> slices_;
  std::int64_t num_total_ = 0;
};

/// Returns the micro-batch of a rank at a micro-step: m runs on rank m mod R at micro-step m div R (DESIGN
/// 6). −1 if the rank has none then.
constexpr std::int64_t micro_batch_of(std::int64_t micro_step, int rank, int world_size,
                                      std::int64_t num_micro_batches) {
  const std::int64_t m = micro_step * world_size + rank;
  return m < num_micro_batches ? m : -1;
}
constexpr std::int64_t num_micro_steps(std::int64_t num_micro_batches, int world_size) {
  return (num_micro_batches + world_size - 1) / world_size;
}

/// The one shape of sums over micro-batches: sum(lo, hi) splits at lo + bit_floor(hi − lo − 1). A binary
/// counter over leaves in index order produces exactly it. `push` folds a leaf, or with `level` > 0 the sum
/// of the next 2^level leaves (a node of that shape, if as many leaves came before it as a multiple of
/// 2^level); `finish` returns the total; buffers are moved. `add(a, b)` must compute a += b elementwise.
template <typename Buffer>
class BinaryCounterSum {
 public:
  template <typename Add>
  void push(Buffer leaf, Add&& add, unsigned level = 0) {
    std::uint64_t carry = count_ >> level;
    count_ += std::uint64_t{1} << level;
    while (carry & 1U) {  // the left sibling is complete: fold it
      add(levels_.back(), leaf);
      leaf = std::move(levels_.back());
      levels_.pop_back();
      carry >>= 1U;
    }
    levels_.push_back(std::move(leaf));
  }
  /// Folds what is left from the right. @pre at least one leaf was pushed.
  template <typename Add>
  Buffer finish(Add&& add) {
    while (levels_.size() > 1) {
      add(levels_[levels_.size() - 2], levels_.back());
      levels_.pop_back();
    }
    Buffer total = std::move(levels_.back());
    levels_.clear();
    count_ = 0;
    return total;
  }
  bool empty() const { return levels_.empty(); }
  std::uint64_t num_leaves() const { return count_; }
  std::size_t depth() const { return levels_.size(); }

 private:
  std::vector<Buffer> levels_;
  std::uint64_t count_ = 0;
};

}  // namespace nmoe::comm

#pragma once
// One group of parameters sharded over one communicator (ZeRO-2): reduction of gradient leaves to their
// owners and all-gather of updated weights, both segment by segment and bucket by bucket, so that they
// overlap with backward and the next forward. Used by ShardedOptimizer.
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/comm/layout.hpp"
#include "neuronmoe/model/parameter.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "neuronmoe/train/buffer_pool.hpp"
#include "neuronmoe/train/shard_cut.hpp"

namespace nmoe::train {

/// Returns elements [begin, begin + count) of a parameter's value as one axis.
TensorView flat_value(model::Parameter& parameter, std::int64_t begin, std::int64_t count);

/// A piece of a tensor and where its state lies in this rank's flat arrays.
struct HeldSlice {
  model::Parameter* parameter;
  std::int64_t begin, size;  ///< elements of the tensor
  std::int64_t offset;       ///< element of the flat arrays
};

/// Everything of it lies on the device of `compute`, the stream of forward and backward. Gradients are packed
/// and weights read in that stream's order; messages travel and are folded in a stream of the group's own,
/// with events between the two, so that on a GPU neither waits for the host. A group of one rank sends
/// nothing and folds gradients where they are.
class ShardGroup {
 public:
  /// `parameters`: trainable, held here, in name order; the same list on all ranks of `comm`. `leaves` per
  /// source rank. `comm` and `compute` outlive this.
  ShardGroup(std::vector<model::Parameter*> parameters, comm::Communicator& comm, int leaves,
             const ReduceOptions& options, Stream& compute);

  /// Starts sending this rank's leaves of a segment to their owners. `leaf_counts[source rank]` = how many of
  /// that rank's leaves hold a micro-batch (the first ones); `num_leaves` of the whole step. The
  /// gradients may be overwritten, in the order of `compute`, when it returns. Collective over the group.
  void reduce_segment(int segment, std::span<const int> leaf_counts, std::int64_t num_leaves);
  /// Waits for all reductions in flight; later work on `compute` sees the reduced gradients. After the last
  /// micro-step gradient() is complete.
  void finish_reduction();
  /// Without ZeRO: brings every rank's gradient slices to all ranks. Collective over the group.
  void gather_gradients();

  /// Starts to bring updated weights of all owners to all ranks, in the order in which a forward needs them.
  /// Collective over the group.
  void start_gather();
  /// Makes `compute` wait for the all-gather of a segment's updated weights (−1: of all). Collective over the
  /// group.
  void wait_weights(int segment);

  const std::vector<model::Parameter*>& parameters() const { return parameters_; }
  /// Returns what this rank owns, and what it keeps state for (the same with ZeRO, everything without).
  const std::vector<HeldSlice>& owned() const { return owned_; }
  const std::vector<HeldSlice>& held() const { return held_; }
  std::int64_t num_owned() const;
  /// Returns the flat arrays over held(): gradient sum, fp32 master weight, first and second moments.
  TensorView gradient() { return gradient_.view(); }
  Tensor& master() { return master_; }
  Tensor& exp_avg() { return exp_avg_; }
  Tensor& exp_avg_sq() { return exp_avg_sq_; }
  /// Returns the memory that is allocated for this, in bytes.
  std::int64_t state_bytes() const;
  std::int64_t gradient_bytes() const { return gradient_.num_elements() * 4; }
  std::int64_t buffer_bytes() const;
  /// Returns the bytes of the partial sums, between steps, when none is in use.
  std::int64_t partial_sum_bytes() const { return sums_pool_.num_bytes(); }

 private:
  /// One bucket on its way.
  struct Flight {
    std::size_t unit;
    std::int64_t bucket, num_leaves = 0;
    std::vector<int> leaf_counts;
    std::vector<std::int64_t> send_counts, recv_counts;
    TensorView send;                 ///< of bytes, on the CPU in a send buffer of the communicator
    std::shared_ptr<void> memory;    ///< that `send` lies in
    Tensor receive;                  ///< of bytes
    comm::InPlaceExchange exchange;  ///< of a reduction; others may read in `send` until it is reclaimed
    comm::Work work;                 ///< of a gather
  };
  /// Owned pieces and sums of one unit.
  struct UnitState {
    std::vector<std::int64_t>
        first;  // element of the flat arrays where each rank's part begins; −1: not held
    std::vector<comm::BinaryCounterSum<Tensor>> sums;  // one per bucket
  };
  template <typename F>
  void for_each_piece(const ShardUnit& unit, int rank, std::int64_t begin, std::int64_t end, F&& f) const;
  Stream& stream() { return comm_.size() == 1 ? compute_ : own_.stream(); }
  /// Makes later work on `then` wait for all work queued on `first` so far.
  void order(Stream& first, Stream& then);
  Flight take_flight(std::size_t unit, std::int64_t bucket);
  void pack(Flight& flight);
  void pack_leaf(std::size_t unit, int rank, std::int64_t bucket, int leaf, TensorView out) const;
  void fold(Flight& flight);
  void fold_here(std::size_t unit, std::int64_t bucket, int leaves, std::int64_t num_leaves);
  void finish_bucket(std::size_t unit, std::int64_t bucket, std::int64_t num_leaves);
  void add(Tensor& a, Tensor& b, BufferPool& pool, Stream& stream);
  TensorView gradient_of(std::size_t unit, std::int64_t bucket);
  void land_oldest_reduction();
  void start_next_gather();
  void land_oldest_gather();

  std::vector<model::Parameter*> parameters_;
  comm::Communicator& comm_;
  Stream& compute_;
  OwnedStream own_;
  Event event_;
  ReduceOptions options_;
  ShardCut cut_;
  std::vector<UnitState> states_;
  std::vector<HeldSlice> owned_, held_;
  std::deque<Flight> reductions_, gathers_;
  std::deque<std::pair<std::size_t, std::int64_t>> gathers_to_start_;  // unit, bucket
  std::vector<Flight> landed_;      // their buffers are used again: no allocation after warm-up
  BufferPool packing_, sums_pool_;  // likewise; the first in the order of compute_, the other of stream()
  Tensor rounded_;                  // one rank: a bucket as it would have travelled
  Tensor gradient_, master_, exp_avg_, exp_avg_sq_;
};

}  // namespace nmoe::train

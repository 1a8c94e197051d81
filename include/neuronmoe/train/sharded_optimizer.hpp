#pragma once
// ZeRO-2 AdamW (DESIGN 4.5-4.6): gradients are reduced to their owners, fp32 master and moments exist only
// for the owned slice, updated weights are all-gathered. Used by Trainer and by checkpoints.
//
// Two groups of parameters: replicated ones are sharded over all ranks; new experts are sharded over the
// ranks that hold the same experts (the expert-data-parallel group). Gradient leaves, one per micro-batch,
// are added in the one order of DESIGN 6, so the result has the same bits on every layout.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/comm/layout.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/ops/optimizer.hpp"

namespace nmoe::train {

/// One group of parameters, sharded over one communicator.
class ShardGroup {
 public:
  /// `parameters`: trainable, held here, in name order; the same list on all ranks of `comm`. `leaves` per
  /// source rank.
  ShardGroup(std::vector<model::Parameter*> parameters, comm::Communicator& comm, int leaves,
             std::int64_t bucket_bytes);

  /// Sends this rank's leaves of one micro-step to their owners and folds what arrives. `leaf_counts[source
  /// rank]` = how many of that rank's leaves hold a micro-batch (the first ones). Collective over the group.
  void reduce(std::span<const int> leaf_counts, Stream& stream);
  /// Moves the folded sum into gradient(); every micro-step must have been reduced.
  void finish_reduction();
  /// Brings updated weights of all owners to all ranks of the group. Collective over the group.
  void gather_weights(Stream& stream);

  const std::vector<comm::Slice>& slices() const { return map_.slices(comm_.rank()); }
  const std::vector<model::Parameter*>& parameters() const { return parameters_; }
  std::int64_t num_owned() const { return map_.num_owned(comm_.rank()); }
  /// Owned elements, slice after slice: gradient sum, fp32 master weight, first and second moments.
  TensorView gradient() { return gradient_.view(); }
  Tensor& master() { return master_; }
  Tensor& exp_avg() { return exp_avg_; }
  Tensor& exp_avg_sq() { return exp_avg_sq_; }

 private:
  /// Calls f(parameter, element in parameter, element in flat range, count) for the pieces of flat range
  /// [begin, end) of what `rank` owns.
  template <typename F>
  void for_each_piece(int rank, std::int64_t begin, std::int64_t end, F&& f) const;
  std::int64_t bucket_part(int rank, std::int64_t bucket) const;  // elements of `rank` in a bucket
  std::vector<float> take_buffer(std::int64_t size);

  std::vector<model::Parameter*> parameters_;
  comm::Communicator& comm_;
  comm::ShardMap map_;
  std::int64_t bucket_elements_, num_buckets_;
  std::vector<comm::BinaryCounterSum<std::vector<float>>> sums_;  // one per bucket
  std::vector<std::vector<float>> pool_;  // buffers between uses: no allocation after warm-up
  std::vector<float> send_, receive_;
  Tensor gradient_, master_, exp_avg_, exp_avg_sq_;
};

/// Learning rate of step `t` = 0, 1, ...: linear warm-up, then cosine to min_ratio · peak at `total`
/// (METHOD 7.1).
double cosine_learning_rate(double peak, double min_ratio, std::int64_t warmup, std::int64_t total,
                            std::int64_t t);

class ShardedOptimizer {
 public:
  /// @param world all ranks   @param expert_data_parallel ranks at this rank's position of their
  /// expert-parallel groups
  ShardedOptimizer(model::Decoder& decoder, const comm::ParallelLayout& layout, comm::Communicator& world,
                   comm::Communicator& expert_data_parallel, std::int64_t bucket_bytes);

  /// After the backward of micro-step `micro_step` of a step with `num_micro_batches`. Collective over the
  /// world.
  void reduce(std::int64_t micro_step, std::int64_t num_micro_batches, Stream& stream);
  /// Norm of the whole gradient, the same bits everywhere. After the last reduce of a step. Collective over
  /// the world.
  double finish_reduction(Stream& stream);
  /// AdamW on the owned slices, then all-gather of the weights. Collective over the world.
  void update(const ops::AdamWStep& step, Stream& stream);
  /// Masters rounded from the weights, moments zero. A new stage starts so.
  void reset_state();

  std::vector<ShardGroup*> groups() { return {&replicated_, &experts_}; }
  /// Pieces of model.h5 this rank writes: what it owns, and frozen experts if it is first among their
  /// holders.
  std::vector<model::ParameterPiece> owned_pieces() const;
  std::int64_t num_owned() const { return replicated_.num_owned() + experts_.num_owned(); }
  const model::Decoder& decoder() const { return decoder_; }

 private:
  model::Decoder& decoder_;
  comm::ParallelLayout layout_;
  comm::Communicator& world_;
  ShardGroup replicated_, experts_;
};

}  // namespace nmoe::train

#pragma once
// ZeRO-2 AdamW (DESIGN 4.5-4.6): gradients are reduced to their owners, fp32 master and moments exist only
// for the owned slice, updated weights are all-gathered. Used by Trainer and by checkpoints.
//
// Two groups of parameters: replicated ones are sharded over all ranks; new experts are sharded over the
// ranks that hold the same experts (the expert-data-parallel group). Gradient leaves, one per micro-batch,
// are added in the one order of DESIGN 6, so the result has the same bits on every layout.
// With ReduceOptions::once_per_step a rank adds up its micro-batches in full-size float32 gradients, in
// ascending order, and a leaf is that sum: bits are then a function of the rank count, too.
// State, gradients and messages lie on the device of the decoder's stream; `world` and the expert groups
// carry its tensors and those of the host.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/comm/layout.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "neuronmoe/train/shard_group.hpp"

namespace nmoe::train {

class ShardedOptimizer {
 public:
  /// Puts its hooks into `decoder` and lets its gradients share memory (not with once_per_step, where they
  /// are the sums of a step).
  /// @param world all ranks   @param expert_data_parallel ranks at this rank's position of their
  /// expert-parallel groups
  ShardedOptimizer(model::Decoder& decoder, const comm::ParallelLayout& layout, comm::Communicator& world,
                   comm::Communicator& expert_data_parallel, const ReduceOptions& options);
  ~ShardedOptimizer();
  ShardedOptimizer(const ShardedOptimizer&) = delete;
  ShardedOptimizer& operator=(const ShardedOptimizer&) = delete;

  /// Called before the forward_backward of micro-step `micro_step` of a step with `num_micro_batches`: zeroes
  /// the gradients it adds to and says which leaves will be sent. The decoder's hooks do the rest. Collective
  /// over the world.
  void begin_micro_step(std::int64_t micro_step, std::int64_t num_micro_batches);
  /// Returns the norm of the whole gradient, the same bits everywhere. After the last micro-step of a step.
  /// Collective over the world.
  double finish_reduction(Stream& stream);
  /// Runs AdamW on what this rank keeps state for, then starts the all-gather of the weights. Collective over
  /// the world.
  void update(const ops::AdamWStep& step, Stream& stream);
  /// Returns when every weight is that of the last update. Before anything but a pass of the decoder reads
  /// weights. Collective over the world.
  void finish_gather();
  /// Masters rounded from the weights, moments zero. A new stage starts so.
  void reset_state();

  std::vector<ShardGroup*> groups() { return {&replicated_, &experts_}; }
  std::vector<const ShardGroup*> groups() const { return {&replicated_, &experts_}; }
  /// Pieces of model.h5 this rank writes: what it owns, and frozen experts if it is first among their
  /// holders.
  std::vector<model::ParameterPiece> owned_pieces() const;
  std::int64_t num_owned() const { return replicated_.num_owned() + experts_.num_owned(); }
  const model::Decoder& decoder() const { return decoder_; }

 private:
  void gradients_ready(int segment);

  model::Decoder& decoder_;
  comm::ParallelLayout layout_;
  comm::Communicator& world_;
  ShardGroup replicated_, experts_;
  bool once_per_step_, reduces_ = true;                // whether the micro-step under way sends
  std::vector<int> leaf_counts_, expert_leaf_counts_;  // of it
  std::int64_t num_leaves_ = 0;                        // of a whole step
  Tensor partials_, host_partials_;  // of the squared norm: on the device, and where ranks add theirs
};

/// Leaves with a micro-batch per source rank of a group in a micro-step: all ranks (`experts` false: one leaf
/// each), or the expert-data-parallel ranks (one leaf per rank of the expert-parallel group). Those of
/// micro-step 0 are the leaves of a step with one reduction: who has a micro-batch in any has one there. Pure
/// arithmetic.
std::vector<int> leaf_counts(const comm::ParallelLayout& layout, bool experts, std::int64_t micro_step,
                             std::int64_t num_micro_batches);

}  // namespace nmoe::train

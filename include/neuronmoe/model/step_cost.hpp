#pragma once
// What one micro-batch of a decoder costs a rank, from configuration alone: memory, by walking through the
// same lists of buffers as a pass does (step_memory.hpp), floating-point operations and bytes of tokens on
// their way to experts. Used by train's plan.
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/model/expert_placement.hpp"
#include "neuronmoe/model/layer_pass.hpp"

namespace nmoe::model {

/// A micro-batch with all its tokens on one rank of an expert-parallel group. Everything referenced outlives
/// it.
struct StepShape {
  const ModelConfig& config;
  const FreezePlan& freeze;
  const ExpertPlacement& placement;
  int expert_parallel_size, expert_parallel_rank;
  DType dtype;
  std::int64_t num_tokens;  ///< T
  bool router_losses, global_balancing;

  LayerSizes layer(int l) const {
    return {config,          freeze.layers[static_cast<std::size_t>(l)], l, num_tokens, dtype, router_losses,
            global_balancing};
  }
};

/// How much of a micro-batch goes to the base expert of each layer: its share, or the minimum or maximum
/// possible.
enum class BaseLoad { balanced, least, most };

struct StepCost {
  StepBytes peak;
  std::vector<std::int64_t> kept;  ///< [L] what a layer keeps from forward to backward, bytes
};
/// Returns the memory of a training pass: what Decoder::peak_bytes counts after it if routing is as `load`
/// says.
StepCost step_cost(const StepShape& shape, BaseLoad load);
/// Returns room for any routing on one rank, for a batch that is copied to a GPU, and for uneven cuts
/// that round up to 64 bytes each.
StepBytes reserved_step_bytes(const StepShape& shape);

/// A layer's tokens of one rank in several micro-batches.
struct LayerRouting {
  std::span<const std::int64_t> slots_of_expert;  ///< [E] of its own tokens
  std::int64_t num_computed = 0;                  ///< rows of new experts that it computes, whosever they are
  std::int64_t num_trained = 0;                   ///< of these, rows of experts whose weights train
};
/// Returns the work of a layer; `shape.num_tokens` is that of all micro-batches.
Flops layer_flops(const StepShape& shape, int layer, std::int64_t seq_length, const LayerRouting& routing);
/// Returns the bytes that a layer sends to ranks of the expert-parallel group: rows in both directions, and
/// their counts once a pass.
std::int64_t exchange_bytes(const StepShape& shape, int layer, const LayerRouting& routing,
                            std::int64_t num_passes);

}  // namespace nmoe::model

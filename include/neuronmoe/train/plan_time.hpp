#pragma once
// From counts to time on a machine, and what its libraries take of its memory: a model, never a measurement.
// Used by `neuronmoe plan`.
#include <cstdint>
#include <optional>
#include <vector>

#include "neuronmoe/train/machine.hpp"
#include "neuronmoe/train/plan.hpp"

namespace nmoe::train {

/// How gradients reach their owners between nodes. `ring`: the reduce-scatter of a library, which crosses the
/// network once per node. `direct`: every leaf to its owner, as the deterministic mode does; same bytes per
/// rank, but nearly all of them leave the node.
enum class ReduceRoute { ring, direct };

/// Seconds of one step of the slowest rank.
struct TimePlan {
  double compute_s = 0;
  double reduce_s = 0, gather_s = 0;  ///< on the wire, hidden or not
  double exchange_s = 0;              ///< tokens to experts of other ranks; taken as never hidden
  double exposed_s = 0;               ///< of reduce and gather, what backward and forward cannot hide
  double step_s() const { return compute_s + exchange_s + exposed_s; }
  double serial_step_s() const { return compute_s + exchange_s + reduce_s + gather_s; }
  double efficiency() const { return compute_s / step_s(); }
  double serial_efficiency() const { return compute_s / serial_step_s(); }
};

/// @pre input.num_ranks = nodes · gpus_per_node for the number of nodes that is meant
TimePlan plan_time(const PlanInput& input, const MachineConfig& machine, ReduceRoute route);

/// Bytes that a rank's libraries take of a GPU's memory beside the plan's: estimated, all 0 where a machine
/// has none.
struct LibraryMemory {
  std::int64_t context = 0;    ///< CUDA context and kernels
  std::int64_t workspace = 0;  ///< of matrix products
  std::int64_t messages = 0;   ///< channels of NCCL communicators to the other GPUs of the node
  std::int64_t total() const { return context + workspace + messages; }
};
LibraryMemory library_memory(const PlanInput& input, const MachineConfig& machine);

/// Returns the memory of the fullest rank of an expert-parallel group, with balanced routing.
MemoryPlan fullest_memory(const PlanInput& input);
/// Returns the bytes of the fullest rank: room for whatever routing, and its libraries.
std::int64_t needed_bytes(const PlanInput& input, const MachineConfig& machine);

/// A layout on some nodes, with the largest micro-batch that feeds as many ranks as can be and fits.
struct LayoutChoice {
  int expert_parallel_size = 1;
  std::int64_t micro_batch_size = 1;
  TimePlan time;
  MemoryPlan memory;  ///< of the fullest rank, with balanced routing
  std::int64_t needed_bytes = 0;
  bool fits = false;  ///< needed_bytes in the memory of a GPU
};
/// Returns all expert-parallel sizes up to 16 that stay inside a node, the fastest that fits first. Global
/// batch = one configured micro-batch per rank, or, with `strong`, the configured one.
std::vector<LayoutChoice> plan_layouts(PlanInput input, const MachineConfig& machine, int nodes, bool strong,
                                       ReduceRoute route);

/// Returns the tokens per rank and step above which sharding the experts' optimizer over all ranks moves
/// fewer bytes than spreading the experts over them. Empty without new experts.
std::optional<double> crossover_tokens(const PlanInput& input);

}  // namespace nmoe::train

#pragma once
// What a run counted, set beside what `plan` predicts for it. Used by Trainer; tests demand that both are
// equal.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "neuronmoe/train/machine.hpp"
#include "neuronmoe/train/metrics.hpp"
#include "neuronmoe/train/plan.hpp"
#include "neuronmoe/train/sharded_optimizer.hpp"

namespace nmoe::train {

struct RunAccounts {
  std::int64_t num_steps = 0, num_updates = 0;
  std::int64_t flops = 0;                     ///< counted, this rank
  std::map<std::string, std::int64_t> bytes;  ///< counted, sent by this rank, per collective
  std::int64_t planned_flops = 0;             ///< for this run's routing
  std::int64_t balanced_flops = 0;            ///< from configuration alone
  std::map<std::string, std::int64_t> planned_bytes;
  MemoryPlan memory, planned_memory;   ///< counted, planned
  DeviceMemory device;                 ///< of this process, all zero on the CPU
  CardMemory card;                     ///< of its GPU at the end of the run, all zero on the CPU
  std::int64_t first_allocations = 0;  ///< of `device`, up to the end of the first step
  std::vector<double> step_s;          ///< measured, of each step
  std::vector<double> save_s;          ///< measured, of each checkpoint
  std::int64_t saved_bytes = 0;        ///< of the last checkpoint, on rank 0
  double wall_s = 0;                   ///< of the run so far, loading included
  int num_ranks = 1;
  MachineConfig machine;      ///< that the modeled time is of
  double modeled_step_s = 0;  ///< of the slowest rank, with balanced routing

  void add(const StepMetrics& step);
  /// Fills the planned side and the memory. Collective over the world: routing of all ranks decides what this
  /// one received.
  void finish(const PlanInput& input, const MachineConfig& on, comm::Communicator& world,
              const model::Decoder& decoder, const ShardedOptimizer& optimizer, Stream& stream);
  /// Returns the median of the measured times after the first warm_up_steps, of all if there are no more.
  /// @pre at least one step was made
  double measured_step_s() const;
  /// Returns what the saves cost, the share of wall_s that was spent in steps, and the interval between saves
  /// that this suggests; "" before the first save.
  std::string saves_text() const;
  /// Returns both sides of rank 0, a line each.
  std::string to_string() const;
};

/// Takes the memory of a micro-batch in one piece, for whatever routing on one rank, so that steps after the
/// first allocate nothing and no ends of blocks are left over. Experts of other ranks may ask for more.
void reserve_step_memory(model::Decoder& decoder, const PlanInput& input, int rank);

}  // namespace nmoe::train

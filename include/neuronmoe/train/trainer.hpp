#pragma once
// The training loop of pretrain, stage 1 and stage 2 (DESIGN 4): one engine, three sets of trainables and
// losses. Called by app's commands.
#include <functional>
#include <optional>
#include <string>

#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/data/mixture.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/train/checkpoint.hpp"
#include "neuronmoe/train/config.hpp"
#include "neuronmoe/train/frozen_weights.hpp"
#include "neuronmoe/train/metrics.hpp"
#include "neuronmoe/train/parallel_groups.hpp"
#include "neuronmoe/train/run_accounts.hpp"
#include "neuronmoe/train/run_kind.hpp"
#include "neuronmoe/train/sharded_optimizer.hpp"

namespace nmoe::train {

struct TrainRun {
  RunKind kind;
  TrainConfig config;
  std::string output_dir;
  std::string resume{resume_auto};  ///< newest valid checkpoint of output_dir, if any; or resume_none; or a
                                    ///< step directory
  RunIdentity identity;
  /// Called on every rank after each step, once it is recorded and, where due, saved; may run collectives and
  /// evaluation forwards. app installs it (telemetry).
  std::function<void(std::int64_t step)> after_step = {};
  MeasuredTokens placed_by = {};  ///< what the decoder's experts were spread by, for its plan
  MachineConfig machine = {};     ///< that its steps' time is modeled on
};

struct TrainResult {
  std::int64_t completed_steps = 0;
  bool saved_on_signal = false;
  std::string checkpoint;  ///< the last one written or found complete
  RunAccounts accounts;    ///< of this rank, if at least one step was made
};

class RunRecord;

class Trainer {
 public:
  /// Everything referenced outlives the trainer. `decoder` holds the weights to start from; a resume replaces
  /// them.
  Trainer(const comm::ExecutionContext& context, const TrainRun& run, const ParallelGroups& groups,
          model::Decoder& decoder, const data::Mixture& mixture);
  /// Runs to the last step, or to the step in which a stop was requested. Collective over the world.
  /// @throws Error(config) for batch sizes that do not divide, Error(nan_limit), and whatever saving or
  /// reading throws.
  TrainResult run();

 private:
  struct StepBatch;  // the micro-batches this rank runs in one step
  /// What all ranks know of a step before they run it.
  struct StepAgreement {
    std::int64_t num_labels;  // of the whole global batch
    bool stop_requested;
  };
  /// Prepares the first step: checkpoint, memory, hashes of frozen weights. Collective over the world.
  void start();
  void resume();
  /// Returns the step directory that --resume means, "" for a run from the beginning. Collective.
  /// @throws Error(bad_data) if there are checkpoints and none is intact
  std::string directory_to_resume() const;
  /// Throws Error(config) if the run's directory has checkpoints after `step`: they would be taken for its
  /// own.
  void refuse_newer_steps(std::int64_t step) const;
  StepAgreement agree_on_step(const StepBatch& batch);
  model::LossScales loss_scales(std::int64_t global_labels, std::int64_t micro_batch_labels) const;
  StepMetrics train_step(const StepBatch& batch, const StepAgreement& agreed);
  /// Counts a step that was made; tells `metrics` which one it was.
  void advance(StepMetrics& metrics);
  /// @throws Error(nan_limit) after max_nan_steps skipped steps in a row
  void require_finite_steps() const;
  bool save_is_due() const;
  /// Tells the watchdog that a step of `step_s` was made, and how long one may take.
  void watch_steps(double step_s);
  /// Adds the balancing statistics of all micro-batches, one per rank, in their one order (lbl.scope =
  /// global).
  void sum_statistics(std::span<double> statistics);
  void reduce_losses(std::vector<double>& per_micro_batch, const StepAgreement& agreed, StepMetrics& metrics);
  PlanInput plan_input() const;
  /// Waits for the weights that an update left for the next forward to fetch; their bytes belong to the count
  /// of its step.
  void finish_pending_gather(RunRecord& record);
  /// Writes a checkpoint, with metrics.jsonl up to it on the disk. Returns its directory.
  std::string save(RunRecord& record);

  const comm::ExecutionContext& context_;
  const TrainRun& run_;
  const ParallelGroups& groups_;
  model::Decoder& decoder_;
  const data::Mixture& mixture_;
  double longest_step_s_ = 0.0;
  int steps_watched_ = 0;
  ShardedOptimizer optimizer_;
  TrainProgress progress_;
  std::int64_t num_micro_batches_ = 0;
  std::optional<FrozenWeights> frozen_;  // from the start of run() on
  std::string resumed_from_;             // the checkpoint this run goes on from, or ""
  Origin origin_;                        // of the run's experts; as that checkpoint says, if it does
  model::ExpertTokens tokens_before_;    // counted up to there; empty: nothing
};

}  // namespace nmoe::train

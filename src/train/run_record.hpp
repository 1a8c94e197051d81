#pragma once
// What a run writes down about its steps: metrics.jsonl, the progress line and the counters that end up
// beside the plan (RunAccounts). Made by Trainer::run, which says when.
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "neuronmoe/base/log.hpp"
#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/train/metrics.hpp"
#include "neuronmoe/train/parallel_groups.hpp"
#include "neuronmoe/train/run_accounts.hpp"
#include "neuronmoe/train/trainer.hpp"

namespace nmoe::train {

class RunRecord {
 public:
  /// Opens metrics.jsonl on rank 0 behind the lines of the steps up to `first_step`. Everything referenced
  /// outlives the record. Collective over the world. @throws Error(io)
  RunRecord(const comm::ExecutionContext& context, const TrainRun& run, const ParallelGroups& groups,
            std::int64_t first_step);

  /// Starts the clock and the counters of a step.
  void begin_step();
  /// Sets time, rate, FLOPs and bytes since begin_step() in `metrics`, adds them to the accounts and writes
  /// the line of the step. Collective: a full disk ends the run on every rank alike. @throws Error(no_space,
  /// io)
  void end_step(StepMetrics& metrics);
  /// Prints the progress line after the first step of this run, after the last one, when log_every asks, and
  /// when nothing was said for quiet_s.
  void show_progress(const StepMetrics& metrics);
  /// Warns of steps that run well and train nothing: without a label, and, of a stage 2 with the routing
  /// loss, old_patience in a row without a token in an old language.
  void warn_of_silence(const StepMetrics& metrics);
  /// Warns at the end of a run how many of its steps had no label.
  void warn_of_steps_without_label() const;
  /// Calls `work` and adds the bytes that it sends to the accounts: they belong to a step whose line is
  /// written.
  void account_for(const std::function<void()>& work);
  /// Waits until metrics.jsonl is on the disk. Collective. @throws Error(io)
  void sync();
  /// Adds a checkpoint that took `seconds` to the accounts and says what it was. `bytes` counts on rank 0.
  void add_save(const std::string& directory, double seconds, std::int64_t bytes);
  /// Counted so far, without the planned side.
  const RunAccounts& accounts() const { return accounts_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr double quiet_s = 8.0;
  static constexpr std::int64_t old_patience = 100;
  /// What this rank has sent so far per collective, over the world and both groups.
  std::map<std::string, std::int64_t> bytes_sent() const;
  /// What it has sent since it was `before`.
  std::map<std::string, std::int64_t> bytes_sent_since(
      const std::map<std::string, std::int64_t>& before) const;

  const comm::ExecutionContext& context_;
  const TrainConfig& config_;
  const ParallelGroups& groups_;
  std::int64_t first_step_;
  bool wants_old_text_;                                           // the routing loss of stage 2
  std::int64_t steps_without_label_ = 0, steps_without_old_ = 0;  // of this run; in a row
  Clock::time_point last_shown_ = Clock::now();
  std::optional<MetricsFile> metrics_file_;  // on rank 0
  Progress progress_;
  RunAccounts accounts_;
  Clock::time_point step_start_;  // as begin_step() found them
  std::int64_t flops_before_ = 0;
  std::map<std::string, std::int64_t> bytes_before_;
};

}  // namespace nmoe::train

#pragma once
// metrics.jsonl: one line a step, appended by rank 0 (DESIGN 7). Written by Trainer; read by people and
// tools/report.py.
#include <array>
#include <cstdint>
#include <fstream>
#include <map>
#include <string>

#include "neuronmoe/model/router.hpp"

namespace nmoe::train {

/// What one optimizer step did. Losses are means as METHOD 6 defines them, in nats.
struct StepMetrics {
  std::int64_t step = 0;    ///< counted from 1
  std::int64_t tokens = 0;  ///< trained on so far
  double loss_lm = 0, grad_norm = 0, learning_rate = 0;
  std::array<double, model::num_auxiliary_losses> auxiliary{};  ///< in the order of model::auxiliary_losses
  double step_s = 0, tokens_per_s = 0;
  bool skipped = false;                       ///< non-finite gradient: no update was made
  bool no_label = false;                      ///< no token of the global batch has a label: loss_lm is 0
  std::map<std::string, std::int64_t> bytes;  ///< sent by this rank in this step, per collective
  std::int64_t flops = 0;                     ///< of this rank in this step
};

/// Not collective; only rank 0 makes one.
class MetricsFile {
 public:
  /// Keeps the lines of steps <= `resumed_step` of an existing file (a torn last line is dropped) and appends
  /// after them.
  /// @throws Error(io), and Error(bad_data) naming the line for anything else in the file
  MetricsFile(const std::string& path, std::int64_t resumed_step);
  /// Appends one line. @throws Error(io|no_space)
  void write(const StepMetrics& metrics);
  /// Syncs the file; called with every checkpoint. @throws Error(io|no_space)
  void sync();

 private:
  std::string path_;
  std::ofstream out_;
};

}  // namespace nmoe::train

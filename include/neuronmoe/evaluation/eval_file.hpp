#pragma once
// eval.json: what `neuronmoe evaluate` measured; tools/report.py reads it.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "neuronmoe/evaluation/perplexity.hpp"
#include "neuronmoe/evaluation/scores.hpp"

namespace nmoe::evaluation {

/// Results of a run of tasks.
struct EvalResults {
  std::string model, checkpoint;  ///< checkpoint empty for the model alone
  std::string version;
  std::vector<std::pair<std::string, std::string>> config;  ///< resolved options, "section.key" and value
  std::vector<TaskResult> tasks;                            ///< in the order of the file
  std::map<std::string, std::vector<RouterStatistics::LayerMean>> router;  ///< empty for a dense model
};

std::string eval_json(const EvalResults& results);
/// Atomic. Rank 0 calls it, inside comm::agree. @throws Error(io|no_space)
void write_eval_file(const std::string& path, const EvalResults& results);

}  // namespace nmoe::evaluation

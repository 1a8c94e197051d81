#pragma once
// eval.json: what `neuronmoe evaluate` measured; tools/report.py reads it.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "neuronmoe/evaluation/continuation.hpp"
#include "neuronmoe/evaluation/perplexity.hpp"

namespace nmoe::evaluation {

/// Results by language.
struct EvalResults {
  std::string model, checkpoint;  ///< checkpoint empty for the model alone
  std::string version;
  std::vector<std::pair<std::string, std::string>> config;  ///< resolved options, "section.key" and value
  std::map<std::string, Perplexity> perplexity;
  std::map<std::string, ContinuationResult> continuation;
  std::map<std::string, std::vector<RouterStatistics::LayerMean>> router;  ///< empty for a dense model
};

std::string eval_json(const EvalResults& results);
/// Atomic. Rank 0 calls it, inside comm::agree. @throws Error(io|no_space)
void write_eval_file(const std::string& path, const EvalResults& results);

}  // namespace nmoe::evaluation

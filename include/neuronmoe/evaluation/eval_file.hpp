#pragma once
// eval.json: what `neuronmoe evaluate` measured, which tools/report.py reads; and beside it each document's
// and each item's share.
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "neuronmoe/evaluation/continuation.hpp"
#include "neuronmoe/evaluation/intervention_matrix.hpp"
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
  std::optional<InterventionMatrix> interventions = {};                    ///< not in eval.json
};

/// Returns a line of JSON for each document: task, set, document, tokens, bytes, words (null: not known),
/// loglikelihood.
std::string document_lines(const std::string& set, const HeldOutText& text,
                           std::span<const LogLikelihood> answers);
/// Returns a line of JSON for each item: task, set, item, gold, chosen, scores.
std::string item_lines(const std::string& set, std::span<const ItemResult> items);
/// Returns the path of a file beside eval.json: its path with `ending` for .json.
std::string path_beside(const std::string& eval_path, const std::string& ending);
/// Returns the path of those lines.
std::string items_path(const std::string& eval_path);

std::string eval_json(const EvalResults& results);
/// Writes the lines, the files of the matrix, if there is one, then eval.json, each atomically: whoever sees
/// eval.json finds the others. Rank 0 calls it, inside comm::agree. @throws Error(io|no_space)
void write_eval_files(const std::string& path, const EvalResults& results, const std::string& lines);

}  // namespace nmoe::evaluation

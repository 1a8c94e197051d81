#pragma once
// What becomes of held-out text when neurons are replaced (METHOD 1.9): a row for each set of neurons, a
// column for each language of the text. `neuronmoe evaluate` fills it; docs/evaluation.md describes the
// files.
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "neuronmoe/evaluation/log_likelihood.hpp"

namespace nmoe::evaluation {

/// Whose neurons a row is about.
struct InterventionRow {
  std::string language;
  std::int64_t control = 0;          ///< 0: the selected neurons; from 1 on: a random set, by number
  std::vector<std::uint64_t> uuids;  ///< in neurons.h5, ascending
  int first_layer = 0;               ///< the lowest that it touches; the number of layers if it is empty
};

/// A log-likelihood with neurons replaced against the one without, over the same documents.
struct PairedChange {
  double nll = 0.0;      ///< added to -(log-likelihood) per token, nats: > 0 is worse
  double stderr_ = 0.0;  ///< of `nll` over documents, tokens taken as they are; 0 for fewer than two
};
/// Returns change = sum d / sum n with d_i = untouched_i − touched_i of document i and n_i its tokens;
/// stderr² = D / (D − 1) · sum (d_i − change n_i)² / (sum n)². @pre equally many, the same documents
PairedChange paired_change(std::span<const LogLikelihood> untouched, std::span<const LogLikelihood> touched);

/// Held-out text in one language, by documents.
struct InterventionColumn {
  std::string language;
  std::int64_t tokens = 0, documents = 0;
  double nll = 0.0;                   ///< of the untouched model, nats per token
  std::vector<PairedChange> changes;  ///< [rows]
};

struct InterventionMatrix {
  std::vector<InterventionRow> rows;
  std::vector<InterventionColumn> columns;
  std::string replace, neurons_path, neurons_sha256;
  std::uint64_t seed = 0;
};

/// Appends the column of one language: answers [1 + rows][documents], the untouched model's first.
void add_column(InterventionMatrix& matrix, const std::string& language,
                std::span<const std::vector<LogLikelihood>> answers);

/// Returns a line of JSON for each document: task, neurons, control, set, document, tokens, loglikelihood.
std::string intervention_lines(const InterventionRow& row, const std::string& set,
                               std::span<const std::int64_t> documents,
                               std::span<const LogLikelihood> answers);
/// Returns one line per cell under a header; numbers read back as the same.
std::string intervention_csv(const InterventionMatrix& matrix);

/// Who made a matrix.
struct MatrixOrigin {
  std::string model, checkpoint, version;
  std::vector<std::pair<std::string, std::string>> config;
};
/// Writes the matrix beside an eval.json: .interventions.csv, then .interventions.h5, for .json. Rank 0 calls
/// it, inside comm::agree. @throws Error(io|no_space)
void write_intervention_files(const std::string& eval_path, const InterventionMatrix& matrix,
                              const MatrixOrigin& origin);

}  // namespace nmoe::evaluation

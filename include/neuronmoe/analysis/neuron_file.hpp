#pragma once
// neurons.h5: the statistics of every neuron for every language, selections, layer similarity. Written by
// analyze, read by allocate and tools/report.py. Rank 0 calls these, inside comm::agree; nothing here is
// collective.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/analysis/lape.hpp"
#include "neuronmoe/analysis/selection.hpp"

namespace nmoe::analysis {

/// Root attributes that say what a file was made from.
struct Provenance {
  std::string model_sha256, tokenizer_sha256, corpus_sha256, config, version;
  std::int64_t seed = 0;
  bool own_negatives = false;          ///< Negatives::file
  std::string checkpoint_sha256 = {};  ///< of the manifest.json of the mixture analyzed; "": a dense model
  std::string bos = {};                ///< data::BosRule of the sentences; "" if it is not known
};

/// Everything in neurons.h5: the tables of the statistics, and what they are of. Languages G are the analyzed
/// ones, N neurons in uuid order.
struct NeuronStatistics : StatisticTables {
  ModuleTable modules;
  std::vector<std::string> languages;
  std::vector<std::uint64_t> n_pos, n_neg, n_tokens, n_dropped;  ///< [G]
  std::vector<Selection> selected;                               ///< [G]
  std::vector<std::pair<std::string, std::string>> similarity_pairs;
  std::vector<double> similarity;  ///< [pairs, L]
  Lape lape;                       ///< empty if it was not measured
  Provenance provenance;
};

/// Returns what the neurons of one language are selected from. Refers to `statistics`.
LanguageScores scores_of(const NeuronStatistics& statistics, std::size_t language);

/// Appends the scores of one module's units, [width, languages], to the tables.
void append_scores(NeuronStatistics& statistics, const std::vector<NeuronScore>& scores);

/// Writes neurons.h5 (docs/formats.md); it is complete or not there at all. @throws Error(io|no_space)
void write_neuron_file(const std::string& path, const NeuronStatistics& statistics);
/// @throws Error(bad_data) naming file and dataset for anything inconsistent
NeuronStatistics read_neuron_file(const std::string& path);

/// Writes the text files of METHOD 1.6 and 1.7: DIR/LANG/expertise/{expertise.csv,
/// expertise_limited_K_top.csv, expertise_info.json} per language.
void write_expertise_csv(const std::string& directory, const NeuronStatistics& statistics);

}  // namespace nmoe::analysis

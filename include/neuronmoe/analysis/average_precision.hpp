#pragma once
// Average precision of neurons, tie-grouped as METHOD 1.5 defines it, and the other statistics of the list
// (statistics.hpp). On the journey: analyze, specialize and score call it once per neuron. Nothing here is
// collective.
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/analysis/class_moments.hpp"
#include "neuronmoe/analysis/descending_order.hpp"
#include "neuronmoe/analysis/statistics.hpp"
#include "neuronmoe/tensor/stream.hpp"

namespace nmoe::analysis {

/// Returns AP by the plain reference: AP = Σ_i (recall_i − recall_{i−1}) · precision_i over distinct scores,
/// descending (METHOD 1.5; equals scikit-learn's average_precision_score). −0 equals +0. 0 if there is no
/// positive.
/// @param labels one per score, 1 = positive   @throws Error(bad_data) for NaN, naming the sample
double average_precision(std::span<const float> scores, std::span<const std::uint8_t> labels);
double average_precision(std::span<const double> scores, std::span<const std::uint8_t> labels);
/// Returns the plain reference of ClassMoments::separation: two passes over the scores in sample order.
double separation(std::span<const double> scores, std::span<const std::uint8_t> labels);

/// Which samples count for which language. Samples fall into classes (usually: the language they were written
/// in), and a language gives each class a role.
struct SampleRoles {
  int num_languages = 0, num_classes = 0;
  std::vector<std::uint16_t> class_of_sample;  ///< [S]
  std::vector<Role> roles;                     ///< [num_languages, num_classes]

  std::int64_t num_samples() const { return static_cast<std::int64_t>(class_of_sample.size()); }
  Role role(int language, int sample_class) const {
    return roles[static_cast<std::size_t>(language) * static_cast<std::size_t>(num_classes) +
                 static_cast<std::size_t>(sample_class)];
  }
  /// Returns the number of samples with `role` for `language`.
  std::int64_t count(int language, Role role) const;
  /// Returns whether nobody is absent and no class is positive for two languages.
  bool disjoint() const;
};

/// Returns the shared pool of METHOD 1.1: a sample written in language c is positive for c and negative for
/// all others.
/// @param language_of_sample [S] pool language   @param analysed pool languages to score, in output order
SampleRoles shared_pool_roles(std::span<const int> language_of_sample, int num_pool_languages,
                              std::span<const int> analysed);

/// What NeuronScorer computes: average precision alone, or every statistic of the list.
enum class Statistics { average_precision, all };

/// Fast path: one sort per neuron serves every language. Average precision differs from the reference by
/// rounding of the final sum only (a few 1e-16). Holds scratch memory: one instance per thread.
class NeuronScorer {
 public:
  /// @param roles kept by reference; must outlive the scorer
  explicit NeuronScorer(const SampleRoles& roles, Statistics wanted = Statistics::all);
  /// @param responses [S]   @param[out] scores [num_languages]; what is not wanted is 0
  /// @throws Error(bad_data) for NaN, naming the sample
  void score(std::span<const float> responses, std::span<NeuronScore> scores);

 private:
  /// Ranks of a language's positives, ascending, and how many samples it ranks up to and including each tie
  /// group, as AP wants them: numerator = positives so far, denominator = samples so far.
  struct Hits {
    std::uint32_t begin = 0, end = 0;  // of ranks_, numerators_, denominators_
  };
  void collect_shared();
  void collect_own(std::size_t language);
  double average_precision_of(const Hits& hits);
  void summarise_shared(std::span<NeuronScore> scores) const;
  void summarise_own(std::size_t language, std::span<const float> responses, NeuronScore& score) const;

  const SampleRoles& roles_;
  Statistics wanted_;
  bool shared_;  // roles are disjoint
  DescendingOrder order_;
  ClassMoments moments_;
  std::vector<std::uint32_t> slot_begin_, cursor_, end_cursor_;  // per language, and the positives of nobody
  std::vector<std::uint16_t> slot_of_sample_;                    // [S]
  std::vector<std::uint8_t> role_of_sample_;                     // [languages, S] if not shared
  std::vector<std::uint32_t> ranks_, negative_ranks_, ranked_, group_ends_;
  std::vector<std::uint32_t> numerators_, denominators_;
  std::vector<std::int64_t> num_positive_, num_negative_;
};

/// Scores `num_neurons` rows of responses [num_neurons, S] with all threads; scores [num_neurons, languages].
/// @throws Error(bad_data) for NaN, naming the first such row counted from `first_row`, and the sample
void score_rows(std::span<const float> responses, const SampleRoles& roles, std::span<NeuronScore> scores,
                std::int64_t first_row = 0, Statistics wanted = Statistics::all);
/// Scores float64 rows, on one thread. A row that float32 holds exactly takes the fast path; any other
/// is scored as it is by plain loops: rounded, its values could tie.   @pre roles.disjoint()
void score_rows(std::span<const double> responses, const SampleRoles& roles, std::span<NeuronScore> scores,
                std::int64_t first_row = 0);

/// Where rows are scored: with the threads of the CPU, or on the GPU of `stream`, `slab_bytes` of its memory
/// at a time (one row at least).
struct ScoringPlace {
  Stream& stream;
  std::int64_t slab_bytes;
};
/// Scores rows at `place`, with the same bits, errors included.
void score_rows(ScoringPlace place, std::span<const float> responses, const SampleRoles& roles,
                std::span<NeuronScore> scores, std::int64_t first_row = 0);

/// Returns the percentile of ascending values with linear interpolation, as numpy.percentile; `q` in [0, 1].
double percentile_sorted(std::span<const double> ascending, double q);

inline constexpr int num_ap_thresholds = 501;
/// Returns neurons_at_ap of METHOD 1.6: for t_i = 0.5 + i·0.001, the number of neurons with AP strictly
/// greater.
std::array<std::int64_t, num_ap_thresholds> neurons_at_ap(std::span<const double> ap);

}  // namespace nmoe::analysis

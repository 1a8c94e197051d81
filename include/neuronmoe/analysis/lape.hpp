#pragma once
// Language activation probability entropy (METHOD 1.8; Tang et al. 2024) of the MLP units of a dense model,
// from the same pass over the sense sentences as average precision. analyze writes it into neurons.h5.
#include <cstdint>
#include <vector>

#include "neuronmoe/analysis/row_grouping.hpp"
#include "neuronmoe/analysis/selection.hpp"
#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::analysis {

/// Entropy and probabilities of neurons in uuid order; NaN for all that are not gate units.
struct Lape {
  std::vector<double> entropy;                  ///< [N] natural logarithm; NaN too if no language fires it
  std::vector<std::vector<float>> probability;  ///< [G][N] share of tokens with SiLU(gate) > 0
  double bar = 0.0;                             ///< the 95th percentile of all probabilities
  double threshold = 0.0;                       ///< entropy of the last unit taken
  std::vector<std::vector<std::uint64_t>> selected;  ///< [G] uuids, ascending
};

/// Selects units by the rule of METHOD 1.8: a unit is a candidate if some probability exceeds the bar, the
/// k-th smallest of all with k = round(0.95·count); the 5 % of all units with the lowest entropy are taken
/// among the candidates (ties: lower uuid), and each belongs to the languages whose probability exceeds the
/// bar. @param probability [G][units]   @param uuids [units]   Fills everything but the tables over N.
void select_by_entropy(const std::vector<std::vector<double>>& probability,
                       const std::vector<std::uint64_t>& uuids, const std::vector<double>& entropy,
                       Lape& lape);
/// Returns the entropy of one unit's probabilities over languages, normalized to sum 1. NaN if all are 0.
double activation_entropy(const std::vector<double>& probability);

/// Counts tokens and how many fired each unit: integers, so sums do not depend on the rank count.
class ActivationCounter {
 public:
  /// @param stream of the decoder, where the counts are kept; must outlive this, like `modules`
  ActivationCounter(const ModuleTable& modules, int num_languages, Stream& stream);
  /// @param values [T, F] gate outputs before SiLU, on the stream's device   @param language_of_row [T]; −1 =
  /// leave out
  void add(int layer, ConstTensorView values, const std::vector<int>& language_of_row);
  /// @param analysed pool languages G that entropy is taken over; the same on every rank. Collective.
  Lape finish(comm::Communicator& comm, Stream& stream, const std::vector<int>& analysed);

 private:
  const ModuleTable& modules_;
  int num_languages_;
  std::vector<std::size_t> module_of_layer_;
  std::vector<std::int64_t> begin_of_layer_;  // of a layer's units in counts_
  std::int64_t num_units_ = 0;
  Stream& stream_;
  RowGrouping grouping_;
  Tensor fired_;                      // per layer [language, unit] int64
  std::vector<std::int64_t> tokens_;  // [layer, language]
};

}  // namespace nmoe::analysis

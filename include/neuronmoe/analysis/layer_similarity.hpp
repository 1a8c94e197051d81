#pragma once
// Similarity of languages per layer (METHOD 4.1): mean cosine over all pairs of tokens at the input of the
// MLP, which is the scalar product of the mean unit vectors. Used by analyze; `allocate` reads it for
// LayerMoE's rule.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "neuronmoe/analysis/row_grouping.hpp"
#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::analysis {

/// Sums of unit vectors per language and layer, kept in fixed point (steps of 2^-38): integer sums do not
/// depend on their order, hence not on the rank count. Room for 2^24 tokens per language.
class LayerSimilarity {
 public:
  /// @param stream of the decoder, where the sums are kept; must outlive this
  LayerSimilarity(int num_languages, int num_layers, std::int64_t hidden_size, Stream& stream);
  /// @param values [T, D] on the stream's device   @param language_of_row [T]; −1 = leave out. Zero vectors
  /// are left out.
  void add(int layer, ConstTensorView values, const std::vector<int>& language_of_row);
  /// Returns the similarity [pairs, L] for pairs (0,1), (0,2), ..., (1,2), ...; the same on every rank.
  /// Collective.
  std::vector<double> finish(comm::Communicator& comm, Stream& stream);
  /// Returns the names of the pairs in the order of finish().
  static std::vector<std::pair<std::string, std::string>> pairs(const std::vector<std::string>& languages);

 private:
  int num_languages_, num_layers_;
  std::int64_t hidden_size_;
  Stream& stream_;
  RowGrouping grouping_;
  Tensor sums_, counts_;  // [layer, language, D], [layer, language] int64
};

}  // namespace nmoe::analysis

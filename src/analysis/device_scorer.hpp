#pragma once
// Scores rows of responses on a GPU (ops::rank_rows): what score_rows does there.
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/ops/ranking.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::analysis {

/// Responses that CUB sorts in one call: before CUDA 12.9 or so it counts them in 32 bits, whatever it is
/// given.
constexpr std::int64_t most_responses_of_slab = (std::int64_t{1} << 31) - 1;

/// Rows of `samples` responses that are ranked at once, `row_bytes` of `slab_bytes` each; 1 at least.
constexpr std::int64_t rows_of_slab(std::int64_t slab_bytes, std::int64_t row_bytes, std::int64_t samples) {
  // A grid has 2^31 − 1 blocks.
  const std::int64_t most =
      std::min(most_responses_of_slab / std::max<std::int64_t>(samples, 1), std::int64_t{1} << 30);
  return std::clamp<std::int64_t>(slab_bytes / row_bytes, 1, std::max<std::int64_t>(most, 1));
}

/// Holds the tables of the roles on the device, and memory for one slab of rows. Sorting and average
/// precision happen there; percentiles are interpolated and separations computed here, by the code that the
/// CPU's scorer uses.
class DeviceScorer {
 public:
  /// @param roles kept by reference; must outlive the scorer
  DeviceScorer(const SampleRoles& roles, ScoringPlace place);
  /// As score_rows.
  void score(std::span<const float> responses, std::span<NeuronScore> scores, std::int64_t first_row);

 private:
  void score_slab(std::span<const float> responses, std::span<NeuronScore> scores, std::int64_t first_row);
  /// Returns how many samples have `role` for a language; positive and negative only.
  std::int64_t num_samples(Role role, std::size_t language) const;
  void set_scores(std::span<const float> responses, std::int64_t rows, std::span<NeuronScore> scores) const;

  const SampleRoles& roles_;
  ScoringPlace place_;
  std::int64_t slab_rows_ = 1, num_positives_ = 0;
  std::vector<std::int64_t> num_on_, num_off_;
  Tensor class_of_sample_, role_table_, positives_begin_, sample_by_class_, class_begin_, wanted_;
  Tensor responses_, values_, order_statistics_, first_nan_;  // of a slab
  Tensor host_values_, host_order_statistics_, host_first_nan_;
};

}  // namespace nmoe::analysis

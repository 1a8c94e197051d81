#pragma once
// The stream of training samples: sample(position) is a pure function, so any rank can ask for any position
// and a resumed run needs no data state. Called by train's step.
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/data/packed_dataset.hpp"
#include "neuronmoe/data/sample_order.hpp"

namespace nmoe::data {

/// Mixes data sets. Without weights: all blocks laid end to end, one SampleOrder over them, so an epoch sees
/// every block once. With weights: a pattern of `period` positions gives each data set its share (largest
/// remainder, at least one, evenly spread), and each data set walks its own SampleOrder at its own count,
/// which is (position div period) * quota + count inside the pattern.
class Mixture {
 public:
  static constexpr std::uint64_t period = 4096;

  /// @param weights one per data set; all zero = by size   @throws Error(config) if some but not all are zero
  /// or any is negative, or the sequence lengths differ
  Mixture(std::vector<PackedDataset> datasets, std::vector<double> weights, std::uint64_t seed);

  /// Where a position's sample comes from.
  struct Source {
    int dataset;
    std::int64_t block;
    bool operator==(const Source&) const = default;
  };
  Source source(std::uint64_t position) const;
  Sample sample(std::uint64_t position) const;
  /// Samples each data set has given before `position`: the cursors of a checkpoint's state.h5.
  std::vector<std::uint64_t> cursors(std::uint64_t position) const;
  const std::vector<PackedDataset>& datasets() const { return datasets_; }
  /// Blocks of all data sets together.
  std::int64_t num_blocks() const;
  std::int64_t seq_length() const { return datasets_.front().seq_length(); }
  /// Returns one line per data set, for the log.
  std::string to_string() const;

 private:
  std::vector<PackedDataset> datasets_;
  std::vector<SampleOrder> orders_;        // one for all, or one per data set
  std::vector<std::int64_t> first_block_;  // [num_datasets + 1], without weights
  std::vector<int> pattern_;               // [period] data set at each position, with weights
  std::vector<std::uint64_t> before_;      // [period + 1, num_datasets] count inside the pattern
};

/// Opens the token files (each once) and packs. @throws Error(bad_data|config)
Mixture make_mixture(const std::vector<DataSetConfig>& configs, std::int64_t seq_length, bool eos_label,
                     std::uint64_t seed, const Packing& packing = {},
                     io::SealCheck seal = io::SealCheck::wanted);

}  // namespace nmoe::data

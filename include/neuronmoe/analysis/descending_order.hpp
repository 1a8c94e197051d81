#pragma once
// The ranking behind average precision: samples of one neuron by response, largest first. NeuronScorer sorts
// every neuron once with it, for all languages.
#include <cstdint>
#include <span>
#include <vector>

namespace nmoe::analysis {

/// Sorts float32 responses descending; −0 equals +0. Scratch memory of its own: one instance per thread.
///
/// Two passes of a radix sort over (max − x)·scale, clamped: a monotone map to 16 to 20 bits, with the sample
/// index in the rest of a 32-bit item; the few neighbors that the map could not tell apart are put right by
/// insertion. Where that would not do (infinities, ranges beyond float32, many orders of magnitude, more than
/// 65,536 samples) three passes over the whole 32-bit key take over. The
/// order of equal responses is unspecified but a function of the responses alone.
class DescendingOrder {
 public:
  explicit DescendingOrder(std::size_t num_samples);
  /// @param responses [S], kept by reference until the next call: value() and group_ends() read it
  /// @throws Error(bad_data) for NaN, naming the sample
  void sort(std::span<const float> responses);

  /// Returns the sample at each rank. [S]
  std::span<const std::uint32_t> samples() const { return order_; }
  /// Returns the response of the sample at that rank, −0 as it came.
  float value(std::size_t rank) const { return responses_[order_[rank]]; }
  /// Returns whether any two responses are equal.
  bool has_ties() const { return num_ties_ > 0; }
  /// Writes to `ends` one past the last rank of the group of equal responses that holds each rank. [S]
  void group_ends(std::vector<std::uint32_t>& ends) const;

 private:
  struct Range {
    float min = 0.0F, max = 0.0F;
  };
  static Range range_of(std::span<const float> responses);
  static Range bulk_of(std::span<const float> responses, Range range);
  bool sort_by_scale(Range range);
  bool settle();
  void sort_by_key();

  unsigned index_bits_ = 0;
  std::vector<std::uint32_t> items_, buffer_, order_;
  std::vector<std::uint32_t>
      ties_;  // [S] the first num_ties_: ranks whose response equals that of the rank above
  std::size_t num_ties_ = 0;
  std::span<const float> responses_;
  std::vector<std::uint64_t> keys_, key_buffer_;
};

}  // namespace nmoe::analysis

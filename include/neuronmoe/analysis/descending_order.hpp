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
/// index in the rest of a 32-bit item; the few neighbours that the map could not tell apart are put right by
/// insertion. Where that would not do (infinities, ranges beyond float32, many orders of magnitude, more than
/// 65,536 samples) three passes over the whole 32-bit key take over. The
/// order of equal responses is unspecified but a function of the responses alone.
class DescendingOrder {
 public:
  explicit DescendingOrder(std::size_t num_samples);
  /// @param responses [S]   @throws Error(bad_data) for NaN, naming the sample
  void sort(std::span<const float> responses);

  /// Sample at each rank. [S]
  std::span<const std::uint32_t> samples() const { return order_; }
  /// Responses in rank order, −0 as it came. [S]
  std::span<const float> values() const { return sorted_; }
  /// Whether any two responses are equal.
  bool has_ties() const { return has_ties_; }
  /// One past the last rank of the group of equal responses that holds each rank. [S]
  void group_ends(std::vector<std::uint32_t>& ends) const;

 private:
  struct Range {
    float min = 0.0F, max = 0.0F;
  };
  static Range range_of(std::span<const float> responses);
  static Range bulk_of(std::span<const float> responses, Range range);
  bool sort_by_scale(std::span<const float> responses, Range range);
  bool settle(std::span<const float> responses, const std::uint32_t* items);
  void sort_by_key(std::span<const float> responses);

  unsigned index_bits_ = 0;
  bool has_ties_ = false;
  std::vector<std::uint32_t> items_, buffer_, order_;
  std::vector<float> sorted_;
  std::vector<std::uint64_t> keys_, key_buffer_;
};

}  // namespace nmoe::analysis

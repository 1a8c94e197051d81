#pragma once
// Which block comes at which position of training: a pure function of (seed, position), the same on any
// number of ranks and after any resume. Used by Mixture.
#include <cstdint>

namespace nmoe::data {

/// Epoch after epoch of pseudo-random permutations of n blocks. Position p is entry p mod n of the
/// permutation of epoch p div n. A permutation is a four-round Feistel network over the smallest even number
/// of bits that holds n, keyed by Philox(seed, sample_order, stream) with the epoch in the counter; values
/// >= n are walked on until they fall inside (at most ~4 steps on average). No state, O(1) memory.
class SampleOrder {
 public:
  /// @param n number of blocks, 1 <= n < 2^62   @throws Error(bad_data) if n is 0
  SampleOrder(std::uint64_t seed, std::uint64_t n, std::uint32_t stream = 0);
  /// Returns the block at `position`.
  std::uint64_t at(std::uint64_t position) const;
  std::uint64_t size() const { return n_; }

 private:
  std::uint64_t permute(std::uint64_t epoch, std::uint64_t index) const;
  std::uint64_t seed_, n_;
  std::uint32_t stream_;
  int half_bits_;
};

}  // namespace nmoe::data

// A random permutation of the blocks for every epoch, computed for one position at a time.
#include "neuronmoe/data/sample_order.hpp"

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/philox.hpp"

namespace nmoe::data {

SampleOrder::SampleOrder(std::uint64_t seed, std::uint64_t n, std::uint32_t stream)
    : seed_(seed), n_(n), stream_(stream), half_bits_(1) {
  NMOE_CHECK(n >= 1 && n < std::uint64_t{1} << 62, bad_data, "there are {} blocks to draw samples from", n);
  while (std::uint64_t{1} << (2 * half_bits_) < n) ++half_bits_;
}

std::uint64_t SampleOrder::at(std::uint64_t position) const {
  return permute(position / n_, position % n_);
}

std::uint64_t SampleOrder::permute(std::uint64_t epoch, std::uint64_t index) const {
  constexpr std::uint32_t num_rounds = 4;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed_),
                                            static_cast<std::uint32_t>(seed_ >> 32)};
  do {
    std::uint64_t left = index >> half_bits_, right = index & mask;
    for (std::uint32_t round = 0; round < num_rounds; ++round) {
      // One block of Philox per round: counter = (half, epoch, purpose and round, stream and high epoch).
      const auto random = philox4x32({static_cast<std::uint32_t>(right), static_cast<std::uint32_t>(epoch),
                                      static_cast<std::uint32_t>(RandomPurpose::sample_order) | round << 16,
                                      stream_ ^ static_cast<std::uint32_t>(epoch >> 32) * 0x9E3779B9U},
                                     key);
      const std::uint64_t next = left ^ (random[0] & mask);
      left = right;
      right = next;
    }
    index = left << half_bits_ | right;
  } while (index >= n_);  // cycle walking: the restriction of a permutation to [0, n) is one too
  return index;
}

}  // namespace nmoe::data

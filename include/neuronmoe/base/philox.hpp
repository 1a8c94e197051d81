#pragma once
// Counter-based random numbers: a value is a pure function of (seed, purpose, index), so initialization and
// sampling do not depend on how many ranks draw them. Used by model initialization, data order and analysis.
#include <array>
#include <cmath>
#include <cstdint>

namespace nmoe {

/// What a random number is for; part of the counter so that streams never overlap.
enum class RandomPurpose : std::uint32_t {
  parameter_init = 1,
  sample_order = 2,
  data_mix = 3,
  sense = 4,
  evaluation = 5,
  test = 6,
  synthetic = 7,
  ties = 8,
  generation = 9
};

/// Returns Philox4x32-10 (Salmon et al., SC 2011): 128 random bits for a 128-bit counter under a 64-bit key.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9U, key[1] + 0xBB67AE85U};
  }
  return counter;
}

/// Stateless random source. All members are pure; two instances with equal (seed, purpose, stream) agree.
class Philox {
 public:
  Philox(std::uint64_t seed, RandomPurpose purpose, std::uint32_t stream = 0)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        purpose_(static_cast<std::uint32_t>(purpose)),
        stream_(stream) {}

  /// Returns 64 random bits for `index`.
  std::uint64_t bits(std::uint64_t index) const {
    const auto r = block(index);
    return (std::uint64_t{r[1]} << 32) | r[0];
  }
  /// Returns a uniform number in [0, 1), 53 bits.
  double uniform(std::uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1.0p-53; }
  /// Returns a uniform integer in [0, bound); the modulo bias is below bound / 2^64.
  std::uint64_t below(std::uint64_t index, std::uint64_t bound) const {
    // High half of the 128-bit product, from 32-bit halves (no compiler extension needed).
    const std::uint64_t x = bits(index);
    const std::uint64_t x_hi = x >> 32, x_lo = x & 0xFFFFFFFFU, b_hi = bound >> 32,
                        b_lo = bound & 0xFFFFFFFFU;
    const std::uint64_t mid = x_hi * b_lo + ((x_lo * b_lo) >> 32);
    const std::uint64_t mid2 = x_lo * b_hi + (mid & 0xFFFFFFFFU);
    return x_hi * b_hi + (mid >> 32) + (mid2 >> 32);
  }
  /// Returns a standard normal number (Box-Muller, in double).
  double normal(std::uint64_t index) const {
    const auto r = block(index);
    const double u1 = (static_cast<double>((std::uint64_t{r[1]} << 32 | r[0]) >> 11) + 1.0) * 0x1.0p-53;
    const double u2 = static_cast<double>((std::uint64_t{r[3]} << 32 | r[2]) >> 11) * 0x1.0p-53;
    return std::sqrt(-2.0 * std::log(u1)) * std::cos(6.283185307179586476925 * u2);
  }

 private:
  std::array<std::uint32_t, 4> block(std::uint64_t index) const {
    return philox4x32(
        {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), purpose_, stream_},
        key_);
  }
  std::array<std::uint32_t, 2> key_;
  std::uint32_t purpose_;
  std::uint32_t stream_;
};

}  // namespace nmoe

#pragma once
// Sums in eight lanes that are added in a fixed order: vector code without -ffast-math, and the bits that a
// GPU gives.
#include <array>
#include <cstddef>

namespace nmoe::analysis {

inline constexpr std::size_t lanes = 8;

/// Returns the sum of the lanes, added as a tree.
inline double total(const std::array<double, lanes>& sums) {
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

}  // namespace nmoe::analysis

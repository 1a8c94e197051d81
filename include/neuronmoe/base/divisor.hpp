#pragma once
// For messages about sizes that do not divide: the valid value nearest to the one that was asked for. Used by
// comm, train, app.
#include <cstdint>
#include <cstdlib>

namespace nmoe {

/// Returns the divisor of `n` >= 1 nearest to `wanted`; of two equally near ones the smaller.
inline std::int64_t nearest_divisor(std::int64_t n, std::int64_t wanted) {
  std::int64_t best = 1;
  for (std::int64_t d = 1; d <= n; ++d) {
    if (n % d == 0 && std::abs(d - wanted) < std::abs(best - wanted)) best = d;
  }
  return best;
}

}  // namespace nmoe

#pragma once
// Percentiles with linear interpolation over values that are looked up, not stored.
#include <cmath>
#include <cstdint>

namespace nmoe::analysis {

/// numpy's form: exact at both ends. Infinite values (expert_ap.empty = neg_inf) must not turn into NaN.
inline double interpolate(double low, double high, double t) {
  if (low == high || std::isinf(low)) return low;
  return t < 0.5 ? low + (high - low) * t : high - (high - low) * (1.0 - t);
}

/// Percentile of n values of which value(k) is the k-th in ascending order; 0 if there are none.
template <typename Value>
double percentile_of(std::int64_t n, double q, Value&& value) {
  if (n == 0) return 0.0;
  const double at = static_cast<double>(n - 1) * q;
  const auto low = static_cast<std::int64_t>(std::floor(at));
  if (low + 1 >= n) return value(n - 1);
  return interpolate(value(low), value(low + 1), at - static_cast<double>(low));
}

}  // namespace nmoe::analysis

#pragma once
// Percentiles with linear interpolation over values that are looked up, not stored.
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "neuronmoe/analysis/statistics.hpp"

namespace nmoe::analysis {

/// numpy's form: exact at both ends. Infinite values (expert_ap.empty = neg_inf) must not turn into NaN.
inline double interpolate(double low, double high, double t) {
  if (low == high || std::isinf(low)) return low;
  return t < 0.5 ? low + (high - low) * t : high - (high - low) * (1.0 - t);
}

/// Between which values a percentile lies: the low-th and the high-th in ascending order, `t` of the way.
struct PercentileSpot {
  std::int64_t low, high;
  double t;
};
/// @pre n > 0
inline PercentileSpot percentile_spot(std::int64_t n, double q) {
  const double at = static_cast<double>(n - 1) * q;
  const auto low = static_cast<std::int64_t>(std::floor(at));
  if (low + 1 >= n) return {n - 1, n - 1, 0.0};
  return {low, low + 1, at - static_cast<double>(low)};
}

/// Percentile of n values of which value(k) is the k-th in ascending order; 0 if there are none.
template <typename Value>
double percentile_of(std::int64_t n, double q, Value&& value) {
  if (n == 0) return 0.0;
  const PercentileSpot spot = percentile_spot(n, q);
  if (spot.low == spot.high) return value(spot.low);
  return interpolate(value(spot.low), value(spot.high), spot.t);
}

/// Sets the percentiles among the statistics. on(k) and off(k) are the k-th response in ascending order to
/// the num_on positive and the num_off negative samples.
template <typename On, typename Off>
void set_percentiles(NeuronScore& score, std::int64_t num_on, const On& on, std::int64_t num_off,
                     const Off& off) {
  for_each_statistic(score, [&](std::string_view, auto& value, const StatisticInfo& info) {
    if (!info.percentile) return;
    const double q = info.percentile.q;
    value = static_cast<std::decay_t<decltype(value)>>(
        info.percentile.of == Role::positive ? percentile_of(num_on, q, on) : percentile_of(num_off, q, off));
  });
}

}  // namespace nmoe::analysis

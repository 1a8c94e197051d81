#pragma once
// How fast a run computed, from its metrics.jsonl: what `plan --plan.calibrate` plans with instead of a goal.
#include <cstdint>
#include <span>
#include <string>

namespace nmoe::train {

/// Work of rank 0 per second over whole steps, exchange and waiting included.
struct MeasuredRate {
  std::string path;
  std::int64_t num_steps = 0;             ///< that were taken
  double slow = 0, median = 0, fast = 0;  ///< FLOP/s of the 5th, 50th and 95th percentile of steps
};

/// Steps at the start of a run that are left out of its rate: they allocate, compile and warm up.
inline constexpr std::int64_t warm_up_steps = 3;

/// Returns the value below which `share` of the values lie, of two neighbors the mean weighted by distance.
/// @pre values are sorted and not empty
double quantile(std::span<const double> sorted, double share);

/// Returns the rate of the steps after the first warm_up_steps of a file; a torn last line is passed over.
/// @param path metrics.jsonl, or a directory that has one
/// @throws Error(bad_data) naming file and line for anything else, and for fewer than 2 steps to take
MeasuredRate measured_rate(const std::string& path);

}  // namespace nmoe::train

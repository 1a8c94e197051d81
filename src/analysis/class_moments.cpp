// Moments of responses by class of samples, and the separation of two sets of classes.
#include "neuronmoe/analysis/class_moments.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "eight_sums.hpp"
#include "neuronmoe/analysis/average_precision.hpp"

namespace nmoe::analysis {
namespace {

/// Returns the sum of f(value) over the values, in eight lanes.
template <typename F>
double sum_of(std::span<const float> values, F&& f) {
  std::array<double, lanes> sums{};
  std::size_t i = 0;
  for (; i + lanes <= values.size(); i += lanes) {
    for (std::size_t j = 0; j < lanes; ++j) sums[j] += f(static_cast<double>(values[i + j]));
  }
  for (std::size_t j = 0; i < values.size(); ++i, ++j) sums[j] += f(static_cast<double>(values[i]));
  return total(sums);
}

}  // namespace

double standardized_separation(double mean_on, double variance_on, double mean_off, double variance_off) {
  const double between = mean_on - mean_off, within = std::sqrt((variance_on + variance_off) / 2.0);
  if (!std::isfinite(between) || !std::isfinite(within)) return 0.0;
  if (within == 0.0)
    return between == 0.0 ? 0.0 : std::copysign(std::numeric_limits<double>::infinity(), between);
  return between / within;
}

ClassMoments::ClassMoments(const SampleRoles& roles) : roles_(roles) {
  const auto samples = roles.class_of_sample.size();
  const auto classes = static_cast<std::size_t>(roles.num_classes);
  class_begin_.assign(classes + 1, 0);
  for (const std::uint16_t c : roles.class_of_sample) ++class_begin_[c + 1U];
  std::partial_sum(class_begin_.begin(), class_begin_.end(), class_begin_.begin());
  by_class_.resize(samples);
  std::vector<std::uint32_t> next(class_begin_.begin(), class_begin_.end());
  for (std::size_t s = 0; s < samples; ++s)
    by_class_[next[roles.class_of_sample[s]]++] = static_cast<std::uint32_t>(s);
  contiguous_ = std::is_sorted(by_class_.begin(), by_class_.end());
  gathered_.resize(contiguous_ ? 0 : samples);
  sums_.resize(classes);
  squares_.resize(classes);
}

void ClassMoments::measure(std::span<const float> responses) {
  if (!contiguous_)
    for (std::size_t i = 0; i < responses.size(); ++i) gathered_[i] = responses[by_class_[i]];
  const std::span<const float> by_class = contiguous_ ? responses : std::span<const float>(gathered_);
  for (std::size_t c = 0; c < sums_.size(); ++c) {
    const auto values = by_class.subspan(class_begin_[c], class_begin_[c + 1] - class_begin_[c]);
    sums_[c] = sum_of(values, [](double x) { return x; });
    const double mean = values.empty() ? 0.0 : sums_[c] / static_cast<double>(values.size());
    squares_[c] = sum_of(values, [mean](double x) { return (x - mean) * (x - mean); });
  }
}

ClassMoments::Moments ClassMoments::of(int language, Role role) const {
  Moments moments;
  double sum = 0.0, squares = 0.0;
  const auto for_each_class = [&](auto&& f) {
    for (int c = 0; c < roles_.num_classes; ++c) {
      const auto at = static_cast<std::size_t>(c);
      if (class_begin_[at + 1] > class_begin_[at] && roles_.role(language, c) == role)
        f(at, static_cast<double>(class_begin_[at + 1] - class_begin_[at]));
    }
  };
  for_each_class([&](std::size_t c, double count) {
    sum += sums_[c];
    moments.count += count;
  });
  if (moments.count == 0.0) return moments;
  moments.mean = sum / moments.count;
  for_each_class([&](std::size_t c, double count) {
    const double off = sums_[c] / count - moments.mean;
    squares += squares_[c] + count * (off * off);
  });
  moments.variance = squares / moments.count;
  return moments;
}

double ClassMoments::separation(int language) const {
  const Moments on = of(language, Role::positive), off = of(language, Role::negative);
  if (on.count == 0.0 || off.count == 0.0) return 0.0;
  return standardized_separation(on.mean, on.variance, off.mean, off.variance);
}

}  // namespace nmoe::analysis

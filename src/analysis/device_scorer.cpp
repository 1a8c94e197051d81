// Scores rows of responses on a GPU, slab by slab.
#include "device_scorer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "percentile.hpp"

namespace nmoe::analysis {
namespace {

// Device memory per response while a slab is ranked: the response, keys and classes twice, what the sort
// adds, and the counts of participants; and of the results for a language.
constexpr std::int64_t bytes_per_response = 4 + 2 * 4 + 2 * 2 + 8, bytes_per_positive = 4;
constexpr std::int64_t bytes_per_language = 8 * ops::num_ranked_values + 4 * ops::num_order_statistics;

template <typename T>
Tensor on_device(const std::vector<T>& values, Shape shape, Stream& stream) {
  return copied_to(stream.device(), ConstTensorView(values.data(), dtype_of<T>::value, shape), stream);
}

// A percentile lies between two order statistics; ops::rank_rows wants those of positives first.
static_assert(2 * num_percentiles(Role::positive) == ops::num_positive_statistics &&
                  2 * (num_percentiles(Role::positive) + num_percentiles(Role::negative)) ==
                      ops::num_order_statistics,
              "ops/ranking.hpp: num_order_statistics is not two for each percentile of the list");

/// Calls f(percentile, member) for the percentiles of the list in the order of the order statistics.
template <typename F>
void for_each_percentile(NeuronScore& score, F&& f) {
  for (const Role role : {Role::positive, Role::negative}) {
    for_each_statistic(score, [&](std::string_view, auto& value, const StatisticInfo& info) {
      if (info.percentile && info.percentile.of == role) f(info.percentile, value);
    });
  }
}

/// Returns percentile q of n values; `values` are the two that it lies between.
double percentile_between(std::int64_t n, double q, const float* values) {
  if (n == 0) return 0.0;
  return interpolate(static_cast<double>(values[0]), static_cast<double>(values[1]), percentile_spot(n, q).t);
}

}  // namespace

DeviceScorer::DeviceScorer(const SampleRoles& roles, ScoringPlace place) : roles_(roles), place_(place) {
  const std::int64_t samples = roles.num_samples(), languages = roles.num_languages,
                     classes = roles.num_classes;
  Stream& stream = place.stream;
  std::vector<std::int32_t> class_of_sample(roles.class_of_sample.begin(), roles.class_of_sample.end());
  std::vector<std::int32_t> by_class(class_of_sample.size()), class_begin(1, 0), wanted;
  std::iota(by_class.begin(), by_class.end(), 0);
  std::stable_sort(by_class.begin(), by_class.end(), [&](std::int32_t a, std::int32_t b) {
    return class_of_sample[static_cast<std::size_t>(a)] < class_of_sample[static_cast<std::size_t>(b)];
  });
  for (std::int32_t c = 0; c < classes; ++c)
    class_begin.push_back(class_begin.back() + static_cast<std::int32_t>(std::count(
                                                   class_of_sample.begin(), class_of_sample.end(), c)));
  std::vector<std::uint8_t> role_table;
  for (const Role role : roles.roles) role_table.push_back(static_cast<std::uint8_t>(role));
  std::vector<std::int64_t> positives_begin(1, 0);
  for (int g = 0; g < languages; ++g) {
    num_on_.push_back(roles.count(g, Role::positive));
    num_off_.push_back(roles.count(g, Role::negative));
    positives_begin.push_back(positives_begin.back() + num_on_.back());
    NeuronScore any;
    for_each_percentile(any, [&](const Percentile& percentile, const auto&) {
      const std::int64_t n = num_samples(percentile.of, static_cast<std::size_t>(g));
      const PercentileSpot spot = n > 0 ? percentile_spot(n, percentile.q) : PercentileSpot{0, 0, 0.0};
      wanted.push_back(n > 0 ? static_cast<std::int32_t>(n - 1 - spot.low) : -1);
      wanted.push_back(n > 0 ? static_cast<std::int32_t>(n - 1 - spot.high) : -1);
    });
  }
  num_positives_ = positives_begin.back();
  class_of_sample_ = on_device(class_of_sample, {samples}, stream);
  role_table_ = on_device(role_table, {languages, classes}, stream);
  positives_begin_ = on_device(positives_begin, {languages + 1}, stream);
  sample_by_class_ = on_device(by_class, {samples}, stream);
  class_begin_ = on_device(class_begin, {classes + 1}, stream);
  wanted_ = on_device(wanted, {languages, ops::num_order_statistics}, stream);
  const std::int64_t row_bytes = samples * bytes_per_response + num_positives_ * bytes_per_positive +
                                 languages * bytes_per_language + 16;
  slab_rows_ = rows_of_slab(place.slab_bytes, row_bytes, samples);
}

void DeviceScorer::score(std::span<const float> responses, std::span<NeuronScore> scores,
                         std::int64_t first_row) {
  const std::int64_t samples = roles_.num_samples(), languages = roles_.num_languages;
  const std::int64_t rows = static_cast<std::int64_t>(responses.size()) / samples;
  for (std::int64_t done = 0; done < rows; done += slab_rows_) {
    const std::int64_t count = std::min(slab_rows_, rows - done);
    score_slab(responses.subspan(static_cast<std::size_t>(done * samples),
                                 static_cast<std::size_t>(count * samples)),
               scores.subspan(static_cast<std::size_t>(done * languages),
                              static_cast<std::size_t>(count * languages)),
               first_row + done);
  }
}

void DeviceScorer::score_slab(std::span<const float> responses, std::span<NeuronScore> scores,
                              std::int64_t first_row) {
  const std::int64_t samples = roles_.num_samples(), languages = roles_.num_languages;
  const std::int64_t rows = static_cast<std::int64_t>(responses.size()) / samples;
  Stream& stream = place_.stream;
  if (!responses_.valid() || responses_.shape()[0] < rows) {
    responses_ = {};
    const auto make = [&](Tensor& there, Tensor& here, Shape shape, DType dtype) {
      there = Tensor(shape, dtype, stream.device());
      here = Tensor(shape, dtype);
    };
    responses_ = Tensor({rows, samples}, DType::float32, stream.device());
    make(values_, host_values_, {rows, ops::num_ranked_values, languages}, DType::float64);
    make(order_statistics_, host_order_statistics_, {rows, languages, ops::num_order_statistics},
         DType::float32);
    make(first_nan_, host_first_nan_, {rows}, DType::int32);
  }
  const TensorView slab = responses_.view().rows(0, rows);
  copy(slab, ConstTensorView(responses.data(), DType::float32, {rows, samples}), stream);
  const auto first_rows = [&](Tensor& tensor) { return tensor.view().rows(0, rows); };
  const TensorView values = first_rows(values_).reshape({ops::num_ranked_values, rows, languages});
  ops::rank_rows({values, first_rows(order_statistics_), first_rows(first_nan_)}, slab,
                 {class_of_sample_.view(), role_table_.view(), positives_begin_.view(), num_positives_,
                  sample_by_class_.view(), class_begin_.view(), wanted_.view(), roles_.disjoint()},
                 stream);
  copy(first_rows(host_first_nan_), first_rows(first_nan_), stream);
  for (std::int64_t n = 0; n < rows; ++n) {
    const std::int32_t sample = host_first_nan_.data<std::int32_t>()[n];
    if (sample < samples)
      throw Error(ErrorCode::bad_data,
                  fmt::format("neuron {}: response of sample {} is NaN; average precision is undefined",
                              first_row + n, sample));
  }
  copy(first_rows(host_values_), first_rows(values_), stream);
  copy(first_rows(host_order_statistics_), first_rows(order_statistics_), stream);
  set_scores(responses, rows, scores);
}

void DeviceScorer::set_scores(std::span<const float> responses, std::int64_t rows,
                              std::span<NeuronScore> scores) const {
  const std::int64_t languages = roles_.num_languages, count = rows * languages;
  const auto values_of = [&](ops::RankedValue value) {
    return host_values_.data<double>() + static_cast<int>(value) * count;
  };
  const double *ap = values_of(ops::RankedValue::ap), *off_sum = values_of(ops::RankedValue::off_sum);
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    const auto g = static_cast<std::size_t>(i % languages);
    const float* order_statistics = host_order_statistics_.data<float>() + i * ops::num_order_statistics;
    NeuronScore& score = scores[static_cast<std::size_t>(i)];
    score = {};
    score.ap = ap[i];
    for_each_percentile(score, [&](const Percentile& percentile, auto& value) {
      value = static_cast<std::decay_t<decltype(value)>>(
          percentile_between(num_samples(percentile.of, g), percentile.q, order_statistics));
      order_statistics += 2;
    });
    if (num_off_[g] > 0) score.off_mean = static_cast<float>(off_sum[i] / static_cast<double>(num_off_[g]));
  }
  const auto samples = static_cast<std::size_t>(roles_.num_samples());
#pragma omp parallel
  {
    ClassMoments moments(roles_);
#pragma omp for schedule(static)
    for (std::int64_t n = 0; n < rows; ++n) {
      moments.measure(responses.subspan(static_cast<std::size_t>(n) * samples, samples));
      for (std::int64_t g = 0; g < languages; ++g)
        scores[static_cast<std::size_t>(n * languages + g)].separation =
            static_cast<float>(moments.separation(static_cast<int>(g)));
    }
  }
}

std::int64_t DeviceScorer::num_samples(Role role, std::size_t language) const {
  return (role == Role::positive ? num_on_ : num_off_)[language];
}

void score_rows(ScoringPlace place, std::span<const float> responses, const SampleRoles& roles,
                std::span<NeuronScore> scores, std::int64_t first_row) {
  if (place.stream.device() == Device::cpu) return score_rows(responses, roles, scores, first_row);
  if (roles.num_samples() == 0 || roles.num_languages == 0) return;
  NMOE_CHECK(responses.size() % static_cast<std::size_t>(roles.num_samples()) == 0, internal,
             "{} responses of {} samples", responses.size(), roles.num_samples());
  DeviceScorer(roles, place).score(responses, scores, first_row);
}

}  // namespace nmoe::analysis

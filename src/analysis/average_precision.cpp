// The plain reference of average precision, the roles of samples, and rows scored by all threads.
#include "neuronmoe/analysis/average_precision.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <numeric>

#include "neuronmoe/base/error.hpp"
#include "percentile.hpp"

namespace nmoe::analysis {
namespace {

template <typename T>
double reference(std::span<const T> scores, std::span<const std::uint8_t> labels) {
  NMOE_CHECK(scores.size() == labels.size(), internal, "{} scores but {} labels", scores.size(),
             labels.size());
  for (std::size_t i = 0; i < scores.size(); ++i)
    NMOE_CHECK(!std::isnan(scores[i]), bad_data,
               "response of sample {} is NaN; average precision is undefined", i);
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  const auto positives = static_cast<double>(std::count(labels.begin(), labels.end(), std::uint8_t{1}));
  if (positives == 0.0) return 0.0;
  double ap = 0.0, recall_before = 0.0;
  std::size_t true_positives = 0;
  for (std::size_t i = 0; i < order.size();) {
    std::size_t end = i;  // items with equal scores enter together
    for (; end < order.size() && scores[order[end]] == scores[order[i]]; ++end)
      true_positives += labels[order[end]] == 1 ? 1U : 0U;
    const double recall = static_cast<double>(true_positives) / positives;
    ap += (recall - recall_before) * (static_cast<double>(true_positives) / static_cast<double>(end));
    recall_before = recall;
    i = end;
  }
  return ap;
}

}  // namespace

double average_precision(std::span<const float> scores, std::span<const std::uint8_t> labels) {
  return reference(scores, labels);
}
double average_precision(std::span<const double> scores, std::span<const std::uint8_t> labels) {
  return reference(scores, labels);
}

double separation(std::span<const double> scores, std::span<const std::uint8_t> labels) {
  double count[2] = {}, mean[2] = {}, variance[2] = {};
  for (std::size_t s = 0; s < scores.size(); ++s) {
    count[labels[s] == 1] += 1.0;
    mean[labels[s] == 1] += scores[s];
  }
  if (count[0] == 0.0 || count[1] == 0.0) return 0.0;
  for (const int side : {0, 1}) mean[side] /= count[side];
  for (std::size_t s = 0; s < scores.size(); ++s) {
    const double off = scores[s] - mean[labels[s] == 1];
    variance[labels[s] == 1] += off * off;
  }
  return standardized_separation(mean[1], variance[1] / count[1], mean[0], variance[0] / count[0]);
}

std::int64_t SampleRoles::count(int language, Role wanted) const {
  return std::count_if(class_of_sample.begin(), class_of_sample.end(),
                       [&](std::uint16_t c) { return role(language, c) == wanted; });
}

bool SampleRoles::disjoint() const {
  std::vector<bool> taken(static_cast<std::size_t>(num_classes), false);
  for (int g = 0; g < num_languages; ++g) {
    for (int c = 0; c < num_classes; ++c) {
      const Role wanted = role(g, c);
      if (wanted == Role::absent) return false;
      if (wanted != Role::positive) continue;
      if (taken[static_cast<std::size_t>(c)]) return false;
      taken[static_cast<std::size_t>(c)] = true;
    }
  }
  return true;
}

SampleRoles shared_pool_roles(std::span<const int> language_of_sample, int num_pool_languages,
                              std::span<const int> analysed) {
  SampleRoles roles;
  roles.num_languages = static_cast<int>(analysed.size());
  roles.num_classes = num_pool_languages;
  for (const int language : language_of_sample) {
    NMOE_CHECK(language >= 0 && language < num_pool_languages, internal, "sample of language {}, pool has {}",
               language, num_pool_languages);
    roles.class_of_sample.push_back(static_cast<std::uint16_t>(language));
  }
  for (const int language : analysed) {
    for (int c = 0; c < num_pool_languages; ++c)
      roles.roles.push_back(c == language ? Role::positive : Role::negative);
  }
  return roles;
}

void score_rows(std::span<const float> responses, const SampleRoles& roles, std::span<NeuronScore> scores,
                std::int64_t first_row, Statistics wanted) {
  const auto samples = static_cast<std::size_t>(roles.num_samples());
  const auto languages = static_cast<std::size_t>(roles.num_languages);
  if (samples == 0 || languages == 0) return;
  const auto rows = static_cast<std::int64_t>(responses.size() / samples);
  NMOE_CHECK(responses.size() % samples == 0 && scores.size() == static_cast<std::size_t>(rows) * languages,
             internal, "{} responses, {} samples, {} scores", responses.size(), samples, scores.size());
  std::int64_t failed_row = rows;  // the lowest one, so that the message does not depend on the threads
  std::exception_ptr failure;
#pragma omp parallel
  {
    NeuronScorer scorer(roles, wanted);
#pragma omp for schedule(static)
    for (std::int64_t n = 0; n < rows; ++n) {
      const auto at = static_cast<std::size_t>(n);
      try {
        scorer.score(responses.subspan(at * samples, samples), scores.subspan(at * languages, languages));
      } catch (...) {
#pragma omp critical(nmoe_score_rows)
        if (n < failed_row) {
          failed_row = n;
          failure = std::current_exception();
        }
      }
    }
  }
  if (!failure) return;
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("neuron {}: {}", first_row + failed_row, error.what()));
  }
}

double percentile_sorted(std::span<const double> ascending, double q) {
  return percentile_of(static_cast<std::int64_t>(ascending.size()), q,
                       [&](std::int64_t k) { return ascending[static_cast<std::size_t>(k)]; });
}

std::array<std::int64_t, num_ap_thresholds> neurons_at_ap(std::span<const double> ap) {
  std::array<double, num_ap_thresholds> thresholds{};
  for (int i = 0; i < num_ap_thresholds; ++i) thresholds[static_cast<std::size_t>(i)] = 0.5 + i * 0.001;
  std::array<std::int64_t, num_ap_thresholds> counts{};
  for (const double value : ap) {  // the number of thresholds below the value
    const auto below = std::lower_bound(thresholds.begin(), thresholds.end(), value) - thresholds.begin();
    if (below > 0) ++counts[static_cast<std::size_t>(below - 1)];
  }
  for (int i = num_ap_thresholds - 2; i >= 0; --i)
    counts[static_cast<std::size_t>(i)] += counts[static_cast<std::size_t>(i + 1)];
  return counts;
}

}  // namespace nmoe::analysis

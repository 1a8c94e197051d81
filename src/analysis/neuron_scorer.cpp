// The fast path of average precision: one ranking per neuron, then work that is linear in the samples,
// whatever the number of languages.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "eight_sums.hpp"
#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/base/error.hpp"
#include "percentile.hpp"

namespace nmoe::analysis {
namespace {

/// Σ (i + 1) / (ranks[i] + 1): precision at each positive if nobody ties and nobody is absent.
double sum_of_precisions(std::span<const std::uint32_t> ranks) {
  std::array<double, lanes> sums{};
  std::size_t i = 0;
  for (; i + lanes <= ranks.size(); i += lanes) {
    for (std::size_t j = 0; j < lanes; ++j)
      sums[j] += static_cast<double>(static_cast<std::int32_t>(i + j + 1)) /
                 static_cast<double>(static_cast<std::int32_t>(ranks[i + j] + 1));
  }
  for (std::size_t j = 0; i < ranks.size(); ++i, ++j)
    sums[j] += static_cast<double>(i + 1) / static_cast<double>(ranks[i] + 1);
  return total(sums);
}

double sum_of_quotients(std::span<const std::uint32_t> over, std::span<const std::uint32_t> under) {
  std::array<double, lanes> sums{};
  std::size_t i = 0;
  for (; i + lanes <= over.size(); i += lanes) {
    for (std::size_t j = 0; j < lanes; ++j)
      sums[j] += static_cast<double>(static_cast<std::int32_t>(over[i + j])) /
                 static_cast<double>(static_cast<std::int32_t>(under[i + j]));
  }
  for (std::size_t j = 0; i < over.size(); ++i, ++j)
    sums[j] += static_cast<double>(over[i]) / static_cast<double>(under[i]);
  return total(sums);
}

/// −0 shows as +0.
double value_at(const DescendingOrder& order, std::size_t rank) {
  return static_cast<double>(order.value(rank)) + 0.0;
}

/// Computes every statistic of a float64 row for one language by plain loops.
NeuronScore plain_score(std::span<const double> row, const SampleRoles& roles, int language) {
  std::vector<std::uint8_t> labels(row.size());
  std::vector<double> on, off;
  double off_sum = 0.0;
  for (std::size_t s = 0; s < row.size(); ++s) {
    labels[s] = roles.role(language, roles.class_of_sample[s]) == Role::positive ? 1 : 0;
    (labels[s] == 1 ? on : off).push_back(row[s]);
    if (labels[s] == 0) off_sum += row[s];
  }
  NeuronScore score;
  score.ap = average_precision(row, labels);
  score.separation = static_cast<float>(separation(row, labels));
  std::sort(on.begin(), on.end());
  std::sort(off.begin(), off.end());
  const auto kth_of = [](const std::vector<double>& ascending) {
    return [&ascending](std::int64_t k) { return ascending[static_cast<std::size_t>(k)]; };
  };
  set_percentiles(score, std::ssize(on), kth_of(on), std::ssize(off), kth_of(off));
  if (!off.empty()) score.off_mean = static_cast<float>(off_sum / static_cast<double>(off.size()));
  return score;
}

/// Rounds a row to float32; false if that changes a value.
bool narrowed(std::span<const double> row, std::span<float> narrow) {
  bool exact = true;
  for (std::size_t s = 0; s < row.size(); ++s) {
    const bool fits = std::abs(row[s]) <= static_cast<double>(std::numeric_limits<float>::max());
    narrow[s] = fits ? static_cast<float>(row[s]) : 0.0F;
    exact = exact && static_cast<double>(narrow[s]) == row[s];
  }
  return exact;
}

}  // namespace

NeuronScorer::NeuronScorer(const SampleRoles& roles, Statistics wanted)
    : roles_(roles),
      wanted_(wanted),
      shared_(roles.disjoint()),
      order_(roles.class_of_sample.size()),
      moments_(roles) {
  const auto samples = roles.class_of_sample.size();
  const auto languages = static_cast<std::size_t>(roles.num_languages);
  const auto classes = static_cast<std::size_t>(roles.num_classes);
  std::vector<std::uint16_t> slot_of_class(classes, static_cast<std::uint16_t>(languages));
  for (std::size_t c = 0; c < classes; ++c) {
    for (std::size_t g = 0; g < languages; ++g)
      if (roles.role(static_cast<int>(g), static_cast<int>(c)) == Role::positive)
        slot_of_class[c] = static_cast<std::uint16_t>(g);
  }
  std::vector<std::uint32_t> slot_count(languages + 1, 0);
  for (const std::uint16_t c : roles.class_of_sample) {
    slot_of_sample_.push_back(slot_of_class[c]);
    ++slot_count[slot_of_class[c]];
  }
  slot_begin_.assign(1, 0);
  for (const std::uint32_t count : slot_count) slot_begin_.push_back(slot_begin_.back() + count);
  for (std::size_t g = 0; g < languages; ++g) {
    num_positive_.push_back(roles.count(static_cast<int>(g), Role::positive));
    num_negative_.push_back(roles.count(static_cast<int>(g), Role::negative));
    if (shared_) continue;
    for (const std::uint16_t c : roles.class_of_sample)
      role_of_sample_.push_back(static_cast<std::uint8_t>(roles.role(static_cast<int>(g), c)));
  }
  ranks_.resize(samples + 1);  // one more: see collect_own
  negative_ranks_.resize(shared_ ? 0 : samples + 1);
  ranked_.resize(shared_ ? 0 : samples);
  numerators_.resize(samples);
  denominators_.resize(samples);
}

void NeuronScorer::score(std::span<const float> responses, std::span<NeuronScore> scores) {
  NMOE_CHECK(responses.size() == slot_of_sample_.size() && scores.size() == num_positive_.size(), internal,
             "{} responses for {} samples, {} scores for {} languages", responses.size(),
             slot_of_sample_.size(), scores.size(), num_positive_.size());
  order_.sort(responses);
  if (order_.has_ties() || !shared_) order_.group_ends(group_ends_);
  for (auto& score : scores) score = {};
  if (shared_) collect_shared();
  for (std::size_t g = 0; g < scores.size(); ++g) {
    if (!shared_) collect_own(g);
    const Hits hits{shared_ ? slot_begin_[g] : 0U,
                    shared_ ? slot_begin_[g + 1] : static_cast<std::uint32_t>(num_positive_[g])};
    scores[g].ap = average_precision_of(hits);
    if (!shared_ && wanted_ == Statistics::all) summarise_own(g, responses, scores[g]);
  }
  if (wanted_ != Statistics::all) return;
  moments_.measure(responses);
  for (std::size_t g = 0; g < scores.size(); ++g)
    scores[g].separation = static_cast<float>(moments_.separation(static_cast<int>(g)));
  if (shared_) summarise_shared(scores);
}

/// The ranks of every language's positives in one walk, from both ends at once: two chains of counters that
/// do not wait for each other.
void NeuronScorer::collect_shared() {
  const auto samples = order_.samples();
  cursor_.assign(slot_begin_.begin(), slot_begin_.end() - 1);
  end_cursor_.assign(slot_begin_.begin() + 1, slot_begin_.end());
  std::size_t front = 0, back = samples.size();
  while (front + 1 < back) {
    ranks_[cursor_[slot_of_sample_[samples[front]]]++] = static_cast<std::uint32_t>(front);
    ++front;
    --back;
    ranks_[--end_cursor_[slot_of_sample_[samples[back]]]] = static_cast<std::uint32_t>(back);
  }
  if (front < back) ranks_[cursor_[slot_of_sample_[samples[front]]]] = static_cast<std::uint32_t>(front);
}

/// The ranks of one language's positives and negatives, and for each rank how many samples up to it take
/// part. Without branches: every step writes, and only a sample of the right role moves the end.
void NeuronScorer::collect_own(std::size_t language) {
  const auto samples = order_.samples();
  const std::uint8_t* role = role_of_sample_.data() + language * samples.size();
  std::uint32_t positives = 0, negatives = 0;
  for (std::size_t p = 0; p < samples.size(); ++p) {
    const std::uint8_t is = role[samples[p]];
    ranks_[positives] = negative_ranks_[negatives] = static_cast<std::uint32_t>(p);
    positives += is == static_cast<std::uint8_t>(Role::positive) ? 1U : 0U;
    negatives += is == static_cast<std::uint8_t>(Role::negative) ? 1U : 0U;
    ranked_[p] = positives + negatives;
  }
}

/// Equal responses enter together: a positive counts with the state at the end of its group.
double NeuronScorer::average_precision_of(const Hits& hits) {
  const std::size_t n = hits.end - hits.begin;
  if (n == 0) return 0.0;
  const std::span<const std::uint32_t> ranks(ranks_.data() + hits.begin, n);
  if (shared_ && !order_.has_ties()) return sum_of_precisions(ranks) / static_cast<double>(n);
  std::uint32_t below = 0, numerator = 0;
  for (std::size_t i = n; i-- > 0;) {
    const std::uint32_t end = group_ends_[ranks[i]], denominator = shared_ ? end : ranked_[end - 1];
    numerator = denominator == below ? numerator : static_cast<std::uint32_t>(i + 1);
    numerators_[i] = numerator;
    denominators_[i] = below = denominator;
  }
  return sum_of_quotients({numerators_.data(), n}, {denominators_.data(), n}) / static_cast<double>(n);
}

/// Percentiles come from the ranking: the k-th negative stands k + i ranks down, where i counts the positives
/// above it, found by bisection in their ranks.
void NeuronScorer::summarise_shared(std::span<NeuronScore> scores) const {
  for (std::size_t g = 0; g < scores.size(); ++g) {
    const std::int64_t num_on = num_positive_[g], num_off = num_negative_[g];
    const std::span<const std::uint32_t> on(ranks_.data() + slot_begin_[g], static_cast<std::size_t>(num_on));
    const auto on_value = [&](std::int64_t k) {
      return value_at(order_, on[static_cast<std::size_t>(num_on - 1 - k)]);
    };
    const auto off_value = [&](std::int64_t k) {
      const std::int64_t wanted = num_off - 1 - k;  // from the top
      std::size_t low = 0, high = on.size();
      while (low < high) {  // first positive that lies below the wanted negative; no branch on the data
        const std::size_t mid = (low + high) / 2;
        const bool above = static_cast<std::int64_t>(on[mid]) - static_cast<std::int64_t>(mid) <= wanted;
        low = above ? mid + 1 : low;
        high = above ? high : mid;
      }
      return value_at(order_, static_cast<std::size_t>(wanted) + low);
    };
    set_percentiles(scores[g], num_on, on_value, num_off, off_value);
    double sum = 0.0;
    for (int c = 0; c < roles_.num_classes; ++c)
      if (roles_.role(static_cast<int>(g), c) == Role::negative) sum += moments_.sum(c);
    if (num_off > 0) scores[g].off_mean = static_cast<float>(sum / static_cast<double>(num_off));
  }
}

void NeuronScorer::summarise_own(std::size_t language, std::span<const float> responses,
                                 NeuronScore& score) const {
  const std::int64_t num_on = num_positive_[language], num_off = num_negative_[language];
  const auto on_value = [&](std::int64_t k) {
    return value_at(order_, ranks_[static_cast<std::size_t>(num_on - 1 - k)]);
  };
  const auto off_value = [&](std::int64_t k) {
    return value_at(order_, negative_ranks_[static_cast<std::size_t>(num_off - 1 - k)]);
  };
  set_percentiles(score, num_on, on_value, num_off, off_value);
  const std::uint8_t* role = role_of_sample_.data() + language * responses.size();
  std::array<double, lanes> sums{};
  for (std::size_t s = 0; s < responses.size(); ++s)
    sums[s % lanes] +=
        role[s] == static_cast<std::uint8_t>(Role::negative) ? static_cast<double>(responses[s]) : 0.0;
  if (num_off > 0) score.off_mean = static_cast<float>(total(sums) / static_cast<double>(num_off));
}

void score_rows(std::span<const double> responses, const SampleRoles& roles, std::span<NeuronScore> scores,
                std::int64_t first_row) {
  const auto samples = static_cast<std::size_t>(roles.num_samples());
  const auto languages = static_cast<std::size_t>(roles.num_languages);
  NMOE_CHECK(roles.disjoint(), internal,
             "float64 rows with absent samples, or a class positive for two of {} "
             "languages; score them as float32",
             languages);
  NeuronScorer scorer(roles);
  std::vector<float> narrow(samples);
  for (std::size_t n = 0; n * samples < responses.size(); ++n) {
    const auto row = responses.subspan(n * samples, samples);
    const auto out = scores.subspan(n * languages, languages);
    if (narrowed(row, narrow)) {
      scorer.score(narrow, out);
      continue;
    }
    try {
      for (int g = 0; g < roles.num_languages; ++g)
        out[static_cast<std::size_t>(g)] = plain_score(row, roles, g);
    } catch (const Error& error) {
      throw Error(error.code(),
                  fmt::format("neuron {}: {}", first_row + static_cast<std::int64_t>(n), error.what()));
    }
  }
}

}  // namespace nmoe::analysis

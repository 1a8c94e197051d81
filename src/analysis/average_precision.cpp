#include "neuronmoe/analysis/average_precision.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <exception>
#include <numeric>
#include <utility>

#include "neuronmoe/base/error.hpp"

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

// Orders like the float, descending: smaller key = larger value. −0 is made +0 first, so that the two tie.
std::uint32_t key_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value == 0.0F ? 0.0F : value);
  const std::uint32_t ascending = (bits >> 31) != 0U ? ~bits : bits | 0x80000000U;
  return ~ascending;
}
float value_of(std::uint32_t key) {
  const std::uint32_t ascending = ~key;
  return std::bit_cast<float>((ascending >> 31) != 0U ? ascending & 0x7FFFFFFFU : ~ascending);
}

double interpolate(double low, double high, double t) {
  // numpy's form: exact at both ends. Infinite values (expert_ap.empty = neg_inf) must not turn into NaN.
  if (low == high || std::isinf(low)) return low;
  return t < 0.5 ? low + (high - low) * t : high - (high - low) * (1.0 - t);
}

// Percentile of n values of which value(k) is the k-th in ascending order.
template <typename Value>
double percentile_of(std::int64_t n, double q, Value&& value) {
  if (n == 0) return 0.0;
  const double at = static_cast<double>(n - 1) * q;
  const auto low = static_cast<std::int64_t>(std::floor(at));
  if (low + 1 >= n) return value(n - 1);
  return interpolate(value(low), value(low + 1), at - static_cast<double>(low));
}

}  // namespace

double average_precision(std::span<const float> scores, std::span<const std::uint8_t> labels) {
  return reference(scores, labels);
}
double average_precision(std::span<const double> scores, std::span<const std::uint8_t> labels) {
  return reference(scores, labels);
}

std::int64_t SampleRoles::count(int language, Role wanted) const {
  return std::count_if(class_of_sample.begin(), class_of_sample.end(),
                       [&](std::uint16_t c) { return role(language, c) == wanted; });
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
  for (const int language : analysed)
    for (int c = 0; c < num_pool_languages; ++c)
      roles.roles.push_back(c == language ? Role::positive : Role::negative);
  return roles;
}

NeuronScorer::NeuronScorer(const SampleRoles& roles)
    : roles_(roles),
      items_(roles.class_of_sample.size()),
      buffer_(items_.size()),
      true_positives_(static_cast<std::size_t>(roles.num_languages)),
      absent_above_(true_positives_.size()),
      group_(static_cast<std::size_t>(roles.num_classes), 0),
      class_sum_(group_.size()) {
  for (int c = 0; c < roles.num_classes; ++c) {
    for (int g = 0; g < roles.num_languages; ++g) {
      if (roles.role(g, c) == Role::positive) positive_.items.push_back(g);
      if (roles.role(g, c) == Role::absent) absent_.items.push_back(g);
      if (roles.role(g, c) != Role::negative) outside_.items.push_back(g);
    }
    for (ClassLists* lists : {&positive_, &absent_, &outside_})
      lists->start.push_back(static_cast<int>(lists->items.size()));
  }
  for (int g = 0; g < roles.num_languages; ++g) {
    num_positive_.push_back(roles.count(g, Role::positive));
    num_negative_.push_back(roles.count(g, Role::negative));
    positive_at_.start.push_back(positive_at_.start.back() + num_positive_.back());
    outside_at_.start.push_back(outside_at_.start.back() + roles.num_samples() - num_negative_.back());
  }
  positive_at_.at.resize(static_cast<std::size_t>(positive_at_.start.back()));
  outside_at_.at.resize(static_cast<std::size_t>(outside_at_.start.back()));
}

void NeuronScorer::score(std::span<const float> responses, std::span<NeuronScore> scores) {
  NMOE_CHECK(responses.size() == items_.size() && scores.size() == num_positive_.size(), internal,
             "{} responses for {} samples, {} scores for {} languages", responses.size(), items_.size(),
             scores.size(), num_positive_.size());
  sort_descending(responses);
  scan(scores);
  locate();
  summarise(scores);
}

// Least significant digit radix sort, three passes of 11 bits over (key << 32 | class).
void NeuronScorer::sort_descending(std::span<const float> responses) {
  constexpr std::size_t digits = 3, buckets = 2048;
  std::array<std::array<std::uint32_t, buckets>, digits> counts{};
  std::fill(class_sum_.begin(), class_sum_.end(), 0.0);
  for (std::size_t i = 0; i < responses.size(); ++i) {
    NMOE_CHECK(!std::isnan(responses[i]), bad_data,
               "response of sample {} is NaN; average precision is undefined", i);
    const std::uint32_t key = key_of(responses[i]);
    const std::uint16_t c = roles_.class_of_sample[i];
    items_[i] = (std::uint64_t{key} << 32) | c;
    class_sum_[c] += static_cast<double>(responses[i]);
    ++counts[0][key & 2047U];
    ++counts[1][(key >> 11) & 2047U];
    ++counts[2][key >> 22];
  }
  for (std::size_t d = 0; d < digits; ++d) {
    std::uint32_t before = 0;
    for (auto& count : counts[d]) before += std::exchange(count, before);
    const auto shift = static_cast<unsigned>(32 + 11 * d);
    for (const std::uint64_t item : items_) buffer_[counts[d][(item >> shift) & 2047U]++] = item;
    items_.swap(buffer_);
  }
}

// One walk from the largest response down. A language gains only where a group holds one of its positives, so
// the work is one division per positive, whatever the number of languages.
void NeuronScorer::scan(std::span<NeuronScore> scores) {
  std::fill(true_positives_.begin(), true_positives_.end(), 0);
  std::fill(absent_above_.begin(), absent_above_.end(), 0);
  for (auto& score : scores) score = {};
  const std::size_t n = items_.size();
  for (std::size_t i = 0; i < n;) {
    const std::uint64_t key = items_[i] >> 32;
    std::size_t end = i + 1;
    while (end < n && items_[end] >> 32 == key) ++end;
    if (end > i + 1) {
      add_group(i, end, scores);
    } else {  // the usual case: nobody ties with this one
      const auto c = static_cast<std::size_t>(items_[i] & 0xFFFFU);
      for (const int g : absent_.of(c)) ++absent_above_[static_cast<std::size_t>(g)];
      for (const int g : positive_.of(c)) {
        const auto at = static_cast<std::size_t>(g);
        scores[at].ap += static_cast<double>(++true_positives_[at]) /
                         static_cast<double>(static_cast<std::int64_t>(end) - absent_above_[at]);
      }
    }
    i = end;
  }
  for (std::size_t g = 0; g < scores.size(); ++g)
    if (num_positive_[g] > 0) scores[g].ap /= static_cast<double>(num_positive_[g]);
}

// Equal responses enter together: first the counts of the whole group, then what each positive class gains.
void NeuronScorer::add_group(std::size_t begin, std::size_t end, std::span<NeuronScore> scores) {
  touched_.clear();
  for (std::size_t i = begin; i < end; ++i) {
    const auto c = static_cast<std::size_t>(items_[i] & 0xFFFFU);
    if (group_[c]++ == 0) touched_.push_back(c);
  }
  for (const std::size_t c : touched_) {
    for (const int g : absent_.of(c)) absent_above_[static_cast<std::size_t>(g)] += group_[c];
    for (const int g : positive_.of(c)) true_positives_[static_cast<std::size_t>(g)] += group_[c];
  }
  for (const std::size_t c : touched_) {
    for (const int g : positive_.of(c)) {
      const auto at = static_cast<std::size_t>(g);
      scores[at].ap += static_cast<double>(group_[c]) *
                       (static_cast<double>(true_positives_[at]) /
                        static_cast<double>(static_cast<std::int64_t>(end) - absent_above_[at]));
    }
    group_[c] = 0;
  }
}

float NeuronScorer::value_at(std::int64_t position) const {
  return value_of(static_cast<std::uint32_t>(items_[static_cast<std::size_t>(position)] >> 32));
}

void NeuronScorer::locate() {
  positive_at_.end.assign(positive_at_.start.begin(), positive_at_.start.end() - 1);
  outside_at_.end.assign(outside_at_.start.begin(), outside_at_.start.end() - 1);
  const auto append = [](Positions& positions, int g, std::size_t p) {
    positions.at[static_cast<std::size_t>(positions.end[static_cast<std::size_t>(g)]++)] =
        static_cast<std::int32_t>(p);
  };
  for (std::size_t p = 0; p < items_.size(); ++p) {
    const auto c = static_cast<std::size_t>(items_[p] & 0xFFFFU);
    for (const int g : positive_.of(c)) append(positive_at_, g, p);
    for (const int g : outside_.of(c)) append(outside_at_, g, p);
  }
}

// Percentiles come from the sorted order: the k-th negative sits k + i places down, where i counts the
// samples of other roles above it, found by bisection in the list of their positions.
void NeuronScorer::summarise(std::span<NeuronScore> scores) const {
  for (std::size_t g = 0; g < scores.size(); ++g) {
    const auto on = positive_at_.of(g), outside = outside_at_.of(g);
    const std::int64_t num_on = num_positive_[g], num_off = num_negative_[g];
    const auto on_value = [&](std::int64_t k) {
      return static_cast<double>(value_at(on[static_cast<std::size_t>(num_on - 1 - k)]));
    };
    const auto off_value = [&](std::int64_t k) {
      const std::int64_t rank = num_off - 1 - k;  // from the top
      std::size_t low = 0, high = outside.size();
      while (low < high) {  // first outside sample that lies below the wanted negative
        const std::size_t mid = (low + high) / 2;
        if (outside[mid] - static_cast<std::int64_t>(mid) <= rank)
          low = mid + 1;
        else
          high = mid;
      }
      return static_cast<double>(value_at(rank + static_cast<std::int64_t>(low)));
    };
    scores[g].on_p50 = static_cast<float>(percentile_of(num_on, 0.5, on_value));
    scores[g].on_p90 = static_cast<float>(percentile_of(num_on, 0.9, on_value));
    scores[g].off_p50 = static_cast<float>(percentile_of(num_off, 0.5, off_value));
    double sum = 0.0;
    for (int c = 0; c < roles_.num_classes; ++c)
      if (roles_.role(static_cast<int>(g), c) == Role::negative)
        sum += class_sum_[static_cast<std::size_t>(c)];
    if (num_off > 0) scores[g].off_mean = static_cast<float>(sum / static_cast<double>(num_off));
  }
}

void score_rows(std::span<const float> responses, const SampleRoles& roles, std::span<NeuronScore> scores,
                std::int64_t first_row) {
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
    NeuronScorer scorer(roles);
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

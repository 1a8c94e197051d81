#pragma once
// The statistics of a neuron for a language (METHOD 1.5, 1.6), as one list. The scorers of CPU and GPU,
// neurons.h5, expert_neurons.h5, the output of `score` and expertise.csv walk it, so that each statistic is
// named once. docs/formats.md has the same list for readers, and how to add one.
#include <cstdint>
#include <string_view>
#include <vector>

namespace nmoe::analysis {

/// What a sample is to a language: absent samples do not take part in that language's ranking.
enum class Role : std::uint8_t { negative, positive, absent };

/// The percentile `q`, in [0, 1], of the responses to the samples of one role; linear interpolation (numpy).
struct Percentile {
  Role of = Role::absent;  ///< absent: none
  double q = 0.0;
  constexpr explicit operator bool() const { return of != Role::absent; }
};

/// What a statistic is, besides its name and value.
struct StatisticInfo {
  std::string_view help;       ///< one line, as in docs/formats.md
  Percentile percentile = {};  ///< every scorer computes these alike; others one by one
  bool in_csv = true;          ///< a column of expertise.csv, whose columns METHOD 1.6 fixes
  bool optional = false;       ///< neurons.h5 of before it existed are read; its rows are empty then
};

/// Holds one Value<T> per statistic, T being the type that files store. 0 if there is no sample to take it
/// of.
template <template <typename> typename Value>
struct StatisticsOf {
  Value<double> ap{};
  Value<float> off_mean{}, off_p50{};
  Value<float> on_p50{}, on_p90{};
  Value<float> separation{};
};

/// Calls f(name, member of a, member of b, StatisticInfo) for every statistic, in the order of files and CSV.
/// Names are those of datasets and columns.
/// @param a, b two StatisticsOf (or classes derived from one), of the same or of different Value
template <class A, class B, class F>
constexpr void for_each_statistic(A& a, B& b, F&& f) {
  f("ap", a.ap, b.ap,
    StatisticInfo{.help = "average precision of the response as a detector of the language"});
  f("off_mean", a.off_mean, b.off_mean, StatisticInfo{.help = "mean response to negative samples"});
  f("off_p50", a.off_p50, b.off_p50,
    StatisticInfo{.help = "median response to negative samples",
                  .percentile = Percentile{Role::negative, 0.5}});
  f("on_p50", a.on_p50, b.on_p50,
    StatisticInfo{.help = "median response to positive samples",
                  .percentile = Percentile{Role::positive, 0.5}});
  f("on_p90", a.on_p90, b.on_p90,
    StatisticInfo{.help = "90th percentile of the response to positive samples",
                  .percentile = Percentile{Role::positive, 0.9}});
  f("separation", a.separation, b.separation,
    StatisticInfo{.help = "(mean response to positive − to negative samples) / root of the mean of their "
                          "variances; 0/0 = 0, x/0 = ±inf",
                  .in_csv = false,
                  .optional = true});
}

/// Calls f(name, member, StatisticInfo) for every statistic of `a`, likewise.
template <class A, class F>
constexpr void for_each_statistic(A& a, F&& f) {
  for_each_statistic(a, a, [&](std::string_view name, auto& member, auto&, const StatisticInfo& info) {
    f(name, member, info);
  });
}

template <typename T>
using OneValue = T;
template <typename T>
using ValuePerNeuron = std::vector<std::vector<T>>;

/// Statistics of one neuron for one language.
using NeuronScore = StatisticsOf<OneValue>;
/// Those of all neurons: tables [G][N] of languages and neurons.
using StatisticTables = StatisticsOf<ValuePerNeuron>;

/// Returns how many percentiles over samples of role `of` the list has.
constexpr int num_percentiles(Role of) {
  const NeuronScore score;
  int count = 0;
  for_each_statistic(score, [&](std::string_view, const auto&, const StatisticInfo& info) {
    if (info.percentile && info.percentile.of == of) ++count;
  });
  return count;
}

/// Returns the length of the list.
constexpr int num_statistics() {
  const NeuronScore score;
  int count = 0;
  for_each_statistic(score, [&](std::string_view, const auto&, const StatisticInfo&) { ++count; });
  return count;
}

template <typename T>
using OneByte = char;
static_assert(num_statistics() == sizeof(StatisticsOf<OneByte>),
              "a member of StatisticsOf is not in the list");

}  // namespace nmoe::analysis

// The arithmetic of allocation: sizes per layer or similarities to experts per layer.
#include "neuronmoe/analysis/allocation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <set>

#include "neuronmoe/base/error.hpp"

namespace nmoe::analysis {
namespace {

double rounded(double x, Rounding rounding) {
  switch (rounding) {
    case Rounding::trunc:
      return std::trunc(x);
    case Rounding::half_even:
      return std::nearbyint(x);
    case Rounding::half_up:
      return std::floor(x + 0.5);
    case Rounding::ceil:
      return std::ceil(x);
  }
  return x;
}

std::vector<int> by_similarity(std::span<const double> inverse, double sum, int n) {
  std::vector<int> experts;
  for (const double x : inverse) experts.push_back(static_cast<int>(std::ceil(n * x / sum)));
  return experts;
}

int sum_of(const std::vector<int>& values) {
  return std::accumulate(values.begin(), values.end(), 0);
}

}  // namespace

std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> entries;
  if (text.find_first_not_of(" \t") == std::string_view::npos) return entries;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    std::string_view entry = text.substr(begin, end - begin);
    const std::size_t first = entry.find_first_not_of(" \t");
    entry = first == std::string_view::npos ? std::string_view()
                                            : entry.substr(first, entry.find_last_not_of(" \t") - first + 1);
    entries.emplace_back(entry);
    begin = end + 1;
  }
  return entries;
}

int Allocation::total() const {
  return sum_of(num_experts);
}

CountRange count_range(std::span<const double> sizes, const CountRule& rule) {
  NMOE_CHECK(rule.e_min >= 1 && rule.e_min <= rule.e_max, config,
             "allocation.e_min = {} and allocation.e_max = {}: need 1 <= e_min <= e_max", rule.e_min,
             rule.e_max);
  NMOE_CHECK(!sizes.empty(), bad_data, "no layer to allocate experts for");
  for (std::size_t l = 0; l < sizes.size(); ++l)
    NMOE_CHECK(std::isfinite(sizes[l]) && sizes[l] >= 0.0, bad_data,
               "layer {} has {} neurons; counts must be >= 0", l, sizes[l]);
  CountRange range;
  range.max = *std::max_element(sizes.begin(), sizes.end());
  NMOE_CHECK(
      range.max > 0.0, bad_data,
      "no layer has a language-specific neuron, so there is nothing to allocate by; lower analysis.ap_min, "
      "raise analysis.top_k, or use allocation.mode = uniform");
  range.min = range.max;
  for (const double s : sizes)
    if (s > 0.0 || rule.min_over == MinOver::all) range.min = std::min(range.min, s);
  return range;
}

double scaled_count(double size, const CountRange& range, const CountRule& rule) {
  if (size <= 0.0 || range.max <= range.min) return 0.0;
  return ((size - range.min) / (range.max - range.min)) * (rule.e_max - rule.e_min);
}

int experts_for(double size, const CountRange& range, const CountRule& rule) {
  const double x = scaled_count(size, range, rule);
  return std::clamp(rule.e_min + static_cast<int>(rounded(x, rule.rounding)), rule.e_min, rule.e_max);
}

Allocation allocate_by_count(std::span<const double> sizes, const CountRule& rule) {
  const CountRange range = count_range(sizes, rule);
  Allocation result;
  result.reasons.push_back(fmt::format(
      "E_l = clamp({0} + {1}(((S_l - {2}) / ({3} - {2})) * {4}), {0}, {5}), minimum over {6} layers",
      rule.e_min, name_of(rule.rounding), range.min, range.max, rule.e_max - rule.e_min, rule.e_max,
      rule.min_over == MinOver::all ? "all" : "non-zero"));
  if (range.max == range.min) result.reasons.emplace_back("all layers are equal: every layer gets e_min");
  for (std::size_t l = 0; l < sizes.size(); ++l) {
    result.num_experts.push_back(experts_for(sizes[l], range, rule));
    result.reasons.push_back(fmt::format("layer {}: S = {}, x = {:.4f}, E = {}", l, sizes[l],
                                         scaled_count(sizes[l], range, rule), result.num_experts.back()));
  }
  return result;
}

Allocation allocate_by_similarity(std::span<const double> similarity, int n) {
  NMOE_CHECK(!similarity.empty(), bad_data, "no layer to allocate experts for");
  std::vector<double> inverse;
  for (std::size_t l = 0; l < similarity.size(); ++l) {
    NMOE_CHECK(std::isfinite(similarity[l]) && similarity[l] > 0.0, bad_data,
               "layer {} has similarity {}, and the allocation divides by it: 1/Sim means nothing for zero "
               "or negative values; use allocation.mode = union (neuron counts) or uniform for this model",
               l, similarity[l]);
    inverse.push_back(1.0 / similarity[l]);
  }
  const double sum = std::accumulate(inverse.begin(), inverse.end(), 0.0);
  const int wanted = 3 * static_cast<int>(similarity.size());
  const bool chosen = n == 0;
  if (chosen)
    while (sum_of(by_similarity(inverse, sum, ++n)) < wanted) {
    }
  Allocation result;
  result.num_experts = by_similarity(inverse, sum, n);
  result.reasons.push_back(
      fmt::format("E_l = ceil(N * (1/Sim_l) / sum(1/Sim)), N = {}{}, sum(1/Sim) = {:.6g}", n,
                  chosen ? fmt::format(" (smallest with at least {} experts)", wanted) : "", sum));
  for (std::size_t l = 0; l < similarity.size(); ++l)
    result.reasons.push_back(fmt::format("layer {}: Sim = {:.6f}, x = {:.4f}, E = {}", l, similarity[l],
                                         n * inverse[l] / sum, result.num_experts[l]));
  return result;
}

Allocation allocate_uniform(int num_layers, int experts) {
  NMOE_CHECK(experts >= 1 && num_layers >= 1, config, "{} experts in {} layers: both must be at least 1",
             experts, num_layers);
  return {std::vector<int>(static_cast<std::size_t>(num_layers), experts),
          {fmt::format("uniform: {} experts in each of {} layers, nothing measured", experts, num_layers)}};
}

Allocation allocate_list(std::string_view list) {
  Allocation result;
  result.reasons.emplace_back("list given by the user, nothing measured");
  for (const auto& entry : split_list(list)) {
    int value = 0;
    const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), value);
    NMOE_CHECK(error == std::errc() && end == entry.data() + entry.size() && value >= 1, config,
               "allocation.list: entry {} is '{}', wanted an integer >= 1", result.num_experts.size(), entry);
    result.num_experts.push_back(value);
  }
  NMOE_CHECK(!result.num_experts.empty(), config, "allocation.mode = list needs allocation.list = 6,2,1,...");
  return result;
}

std::vector<double> union_sizes(std::span<const Selection* const> selections, const ModuleTable& modules,
                                NeuronKey key) {
  // (module, unit) pairs of a layer; the module is dropped for `unit`.
  std::vector<std::set<std::pair<std::uint32_t, std::uint32_t>>> distinct(
      static_cast<std::size_t>(modules.num_layers()));
  for (const Selection* selection : selections) {
    for (const SelectedNeuron& neuron : selection->neurons) {
      const Module& module = modules.modules()[neuron.module];
      const std::uint32_t id = key == NeuronKey::unit ? 0 : neuron.module;
      distinct[static_cast<std::size_t>(module.layer)].emplace(id, neuron.unit);
    }
  }
  std::vector<double> sizes;
  for (const auto& layer : distinct) sizes.push_back(static_cast<double>(layer.size()));
  return sizes;
}

std::vector<double> sum_mean_sizes(std::span<const std::vector<double>> sizes) {
  NMOE_CHECK(sizes.size() >= 2, config,
             "allocation.mode = sum_mean needs a source and at least one target, got {}", sizes.size());
  std::vector<double> result = sizes[0];
  for (std::size_t l = 0; l < result.size(); ++l) {
    double sum = 0.0;
    for (std::size_t t = 1; t < sizes.size(); ++t) sum += sizes[t][l];
    result[l] += sum / static_cast<double>(sizes.size() - 1);
  }
  return result;
}

std::vector<double> group_similarity(std::span<const double> similarity,
                                     std::span<const std::pair<std::string, std::string>> pairs,
                                     int num_layers, std::span<const std::string> old_languages,
                                     std::span<const std::string> new_languages) {
  NMOE_CHECK(!old_languages.empty() && !new_languages.empty(), config,
             "layer similarity needs at least one old and one new language, got {} and {}",
             old_languages.size(), new_languages.size());
  const auto add_pair = [&](std::vector<double>& sum, const std::string& a, const std::string& b) {
    const auto at = std::find_if(pairs.begin(), pairs.end(), [&](const auto& pair) {
      return (pair.first == a && pair.second == b) || (pair.first == b && pair.second == a);
    });
    NMOE_CHECK(at != pairs.end(), bad_data, "no similarity between {} and {} was measured", a, b);
    const auto row = static_cast<std::size_t>(at - pairs.begin()) * static_cast<std::size_t>(num_layers);
    for (std::size_t l = 0; l < sum.size(); ++l) sum[l] += similarity[row + l];
  };
  std::vector<double> between(static_cast<std::size_t>(num_layers)), within(between.size());
  for (const auto& a : new_languages) {
    for (const auto& b : old_languages) add_pair(between, a, b);
  }
  double num_within = 0.0;
  for (std::size_t i = 0; i < new_languages.size(); ++i) {
    for (std::size_t j = i + 1; j < new_languages.size(); ++j, num_within += 1.0)
      add_pair(within, new_languages[i], new_languages[j]);
  }
  const auto num_between = static_cast<double>(new_languages.size() * old_languages.size());
  for (std::size_t l = 0; l < between.size(); ++l) {
    between[l] /= num_between;
    if (num_within > 0.0) between[l] = 0.5 * (within[l] / num_within + between[l]);
  }
  return between;
}

}  // namespace nmoe::analysis

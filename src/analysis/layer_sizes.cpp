// Neurons per layer from neurons.h5 or a counts CSV, and the lines that explain what they lead to.
#include "neuronmoe/analysis/layer_sizes.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "neuronmoe/analysis/counts_csv.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::analysis {
namespace {

std::int64_t parse_number(std::string_view text, std::string_view entry) {
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  NMOE_CHECK(error == std::errc() && end == text.data() + text.size() && value >= 0, config,
             "allocation.overlap: '{}' is not LAYER:N, for example 25:3", entry);
  return value;
}

std::size_t language_index(const NeuronStatistics& statistics, const std::string& language,
                           const std::string& path) {
  const auto at = std::find(statistics.languages.begin(), statistics.languages.end(), language);
  NMOE_CHECK(at != statistics.languages.end(), bad_data, "{}: language '{}' was not analyzed; it has: {}",
             path, language, fmt::join(statistics.languages, ", "));
  return static_cast<std::size_t>(at - statistics.languages.begin());
}

/// S by METHOD 3.3, once the sizes of the languages are known.
void add_sum_mean(LayerSizes& sizes) {
  sizes.total = sum_mean_sizes(sizes.each);
  sizes.how.push_back(fmt::format("S = {} + mean of {}", sizes.names[0],
                                  fmt::join(sizes.names.begin() + 1, sizes.names.end(), ", ")));
}

SelectionRule rule_for(const SelectionRule& stored, const AllocationConfig& config,
                       const Reselection& again) {
  SelectionRule rule = stored;
  if (config.top_k > 0) rule.top_k = config.top_k;
  if (config.ties) rule.ties = *config.ties;
  rule.top_k = again.top_k.value_or(rule.top_k);
  rule.ap_min = again.ap_min.value_or(rule.ap_min);
  rule.ties = again.ties.value_or(rule.ties);
  rule.seed = again.seed.value_or(rule.seed);
  return rule;
}

/// The nearest whole number of neurons in one direction at which E changes; 0 if there is none.
std::int64_t neurons_to_change(double size, int step, const CountRange& range, const CountRule& rule) {
  const int now = experts_for(size, range, rule);
  const double last = step > 0 ? range.max : 0.0;
  for (std::int64_t n = 1;
       step > 0 ? size + static_cast<double>(n) <= last : size - static_cast<double>(n) >= last; ++n)
    if (experts_for(size + static_cast<double>(step * n), range, rule) != now) return n;
  return 0;
}

}  // namespace

std::vector<double> parse_overlap(std::string_view text, std::size_t num_layers) {
  std::vector<double> overlap(num_layers, 0.0);
  std::vector<std::uint8_t> seen(num_layers, 0);
  for (const auto& entry : split_list(text)) {
    const std::size_t colon = entry.find(':');
    const auto layer = parse_number(std::string_view(entry).substr(0, colon), entry);
    const auto count = parse_number(
        colon == std::string::npos ? std::string_view() : std::string_view(entry).substr(colon + 1), entry);
    NMOE_CHECK(layer < static_cast<std::int64_t>(num_layers), config,
               "allocation.overlap: '{}' names layer {}, the counts have layers 0..{}", entry, layer,
               num_layers - 1);
    NMOE_CHECK(seen[static_cast<std::size_t>(layer)]++ == 0, config,
               "allocation.overlap names layer {} twice", layer);
    overlap[static_cast<std::size_t>(layer)] = static_cast<double>(count);
  }
  return overlap;
}

LayerSizes sizes_from_counts(const AllocationConfig& config) {
  LayerSizes sizes;
  sizes.names = split_list(config.columns);
  sizes.each = read_counts_csv(config.counts, sizes.names);
  const std::size_t layers = sizes.each[0].size();
  sizes.overlap = parse_overlap(config.overlap, layers);
  if (config.mode == AllocationMode::sum_mean) {
    NMOE_CHECK(config.overlap.empty(), config,
               "allocation.overlap = {} has no meaning in mode sum_mean, which adds and does not unite",
               config.overlap);
    add_sum_mean(sizes);
    return sizes;
  }
  constexpr auto known =
      names_among<AllocationMode::union_size, AllocationMode::sum_mean, AllocationMode::similarity>;
  NMOE_CHECK(config.mode == AllocationMode::union_size, config,
             "allocation.mode = {} cannot use a counts CSV; wanted {}", name_of(config.mode),
             list_names(known, ", ", " or "));
  sizes.total.assign(layers, 0.0);
  for (std::size_t l = 0; l < layers; ++l) {
    double largest = 0.0;
    for (const auto& column : sizes.each) {
      sizes.total[l] += column[l];
      largest = std::max(largest, column[l]);
    }
    NMOE_CHECK(sizes.total[l] - sizes.overlap[l] >= largest, config,
               "allocation.overlap = {}:{}: the columns count {} neurons there, so at most {} can be shared",
               l, sizes.overlap[l], fmt::join(sizes.names, "+"), sizes.total[l] - largest);
    sizes.total[l] -= sizes.overlap[l];
  }
  sizes.how.push_back(fmt::format("S = {}", fmt::join(sizes.names, " + ")));
  if (!config.overlap.empty())
    sizes.how.push_back(fmt::format("less the overlap given, layer:neurons {}", config.overlap));
  else if (sizes.names.size() > 1)
    sizes.how.push_back("the overlap of the columns is not known (allocation.overlap), so they are summed");
  return sizes;
}

LayerSizes sizes_from_neurons(const AllocationConfig& config, const NeuronStatistics& statistics,
                              const Reselection& again) {
  NMOE_CHECK(config.overlap.empty(), config,
             "allocation.overlap = {} is for a counts CSV; {} knows which neurons are shared", config.overlap,
             config.neurons);
  NMOE_CHECK(config.mode == AllocationMode::union_size || config.mode == AllocationMode::sum_mean, config,
             "allocation.mode = {} is not one of {}", name_of(config.mode),
             list_names(names_among<AllocationMode::union_size, AllocationMode::sum_mean>, ", "));
  LayerSizes sizes;
  sizes.names = split_list(config.languages);
  std::vector<Selection> selections;
  std::vector<const Selection*> pointers;
  for (const auto& language : sizes.names) {
    const std::size_t g = language_index(statistics, language, config.neurons);
    const Selection& stored = statistics.selected[g];
    const SelectionRule rule = rule_for(stored, config, again);
    selections.push_back(rule == stored ? stored
                                        : select_neurons(scores_of(statistics, g), statistics.modules, rule));
    const Selection& selection = selections.back();
    sizes.how.push_back(fmt::format("{}: {} neurons, AP of the last {:.4f}; {}", language,
                                    selection.neurons.size(), selection.threshold, selection.rule));
    for (const auto& warning : selection.warnings)
      sizes.warnings.push_back(fmt::format("{}: {}", language, warning));
    if (selection.cut.decide())
      sizes.top_k_of_all_tied = std::max(sizes.top_k_of_all_tied, selection.top_k_of_all_tied());
  }
  for (const Selection& selection : selections) {
    pointers.push_back(&selection);
    sizes.each.push_back(union_sizes({&pointers.back(), 1}, statistics.modules, config.key));
  }
  sizes.overlap.assign(static_cast<std::size_t>(statistics.modules.num_layers()), 0.0);
  if (config.mode == AllocationMode::sum_mean) {
    add_sum_mean(sizes);
  } else {
    sizes.total = union_sizes(pointers, statistics.modules, config.key);
    for (std::size_t l = 0; l < sizes.total.size(); ++l) {
      for (const auto& language : sizes.each) sizes.overlap[l] += language[l];
      sizes.overlap[l] -= sizes.total[l];
    }
    sizes.how.push_back(
        fmt::format("S = |union of the language-specific neurons of {}|", fmt::join(sizes.names, ", ")));
  }
  sizes.how.back() += fmt::format(", neurons.key = {}", name_of(config.key));
  return sizes;
}

std::vector<std::string> explain_counts(const LayerSizes& sizes, const CountRule& rule,
                                        const Allocation& allocation) {
  const CountRange range = count_range(sizes.total, rule);
  std::vector<std::string> lines;
  for (std::size_t l = 0; l < sizes.total.size(); ++l) {
    std::string counts;
    for (std::size_t c = 0; c < sizes.names.size(); ++c)
      counts += fmt::format("{}{} {}", c == 0 ? "" : ", ", sizes.names[c], sizes.each[c][l]);
    if (sizes.overlap[l] > 0.0) counts += fmt::format(", shared {}", sizes.overlap[l]);
    const double size = sizes.total[l], x = scaled_count(size, range, rule);
    const double score =
        range.max > range.min && size > 0.0 ? (size - range.min) / (range.max - range.min) : 0.0;
    std::string far = fmt::format("next whole number {:.4f} up", std::floor(x) + 1.0 - x);
    if (const auto more = neurons_to_change(size, 1, range, rule); more > 0)
      far += fmt::format("; E grows with {} neurons more", more);
    if (const auto fewer = neurons_to_change(size, -1, range, rule); fewer > 0)
      far += fmt::format("; E shrinks with {} fewer", fewer);
    lines.push_back(fmt::format(
        "layer {}: {} -> S = {}; (S - {}) / ({} - {}) = {:.6f}; * {} = {:.4f}; E = {}; {}", l, counts, size,
        range.min, range.max, range.min, score, rule.e_max - rule.e_min, x, allocation.num_experts[l], far));
  }
  lines.emplace_back("the distances hold minimum and maximum fixed");
  return lines;
}

}  // namespace nmoe::analysis

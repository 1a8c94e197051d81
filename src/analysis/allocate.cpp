#include "neuronmoe/analysis/allocate.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "neuronmoe/analysis/counts_csv.hpp"
#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::analysis {
namespace {

CountRule rule_of(const AllocationConfig& config) {
  return {config.e_min, config.e_max, parse_rounding(config.rounding), parse_min_over(config.min_over)};
}

Allocation from_counts(const AllocationConfig& config) {
  const auto columns = split_list(config.columns);
  auto sizes = read_counts_csv(config.counts, columns);
  std::vector<double> total;
  std::string how;
  if (config.mode == "sum_mean") {
    total = sum_mean_sizes(sizes);
    how = fmt::format("S = {} + mean of {}", columns[0], fmt::join(columns.begin() + 1, columns.end(), ", "));
  } else {
    NMOE_CHECK(config.mode == "union", config,
               "allocation.mode = {} cannot use a counts CSV; wanted union or sum_mean", config.mode);
    total = sizes[0];
    for (std::size_t c = 1; c < sizes.size(); ++c)
      for (std::size_t l = 0; l < total.size(); ++l) total[l] += sizes[c][l];
    how = fmt::format("S = {} (overlap between columns is not known, so they are summed)",
                      fmt::join(columns, " + "));
    if (columns.size() == 1) how = fmt::format("S = {}", columns[0]);
  }
  Allocation allocation = allocate_by_count(total, rule_of(config));
  allocation.reasons.insert(allocation.reasons.begin(), how);
  return allocation;
}

std::size_t language_index(const NeuronStatistics& statistics, const std::string& language,
                           const std::string& path) {
  const auto at = std::find(statistics.languages.begin(), statistics.languages.end(), language);
  NMOE_CHECK(at != statistics.languages.end(), bad_data, "{}: language '{}' was not analysed; it has: {}",
             path, language, fmt::join(statistics.languages, ", "));
  return static_cast<std::size_t>(at - statistics.languages.begin());
}

Allocation from_similarity(const AllocationConfig& config, const NeuronStatistics& statistics,
                           const std::vector<std::string>& languages) {
  NMOE_CHECK(!statistics.similarity_pairs.empty(), bad_data, "{}: it holds no layer similarity",
             config.neurons);
  auto old_languages = split_list(config.old_languages);
  if (old_languages.empty()) old_languages = {languages[0]};
  std::vector<std::string> new_languages;
  for (const auto& language : languages)
    if (std::find(old_languages.begin(), old_languages.end(), language) == old_languages.end())
      new_languages.push_back(language);
  const auto similarity = group_similarity(statistics.similarity, statistics.similarity_pairs,
                                           statistics.modules.num_layers(), old_languages, new_languages);
  Allocation allocation = allocate_by_similarity(similarity, config.similarity_n);
  allocation.reasons.insert(allocation.reasons.begin(),
                            fmt::format("layer similarity of new {} with old {}",
                                        fmt::join(new_languages, ", "), fmt::join(old_languages, ", ")));
  return allocation;
}

Allocation from_neurons(const AllocationConfig& config, const NeuronStatistics& statistics) {
  if (config.mode == "uniform") return allocate_uniform(statistics.modules.num_layers(), config.experts);
  const auto languages = split_list(config.languages);
  NMOE_CHECK(!languages.empty(), config,
             "say which languages to allocate for: allocation.languages = en,el; {} has: {}", config.neurons,
             fmt::join(statistics.languages, ", "));
  if (config.mode == "similarity") return from_similarity(config, statistics, languages);
  const NeuronKey key = parse_neuron_key(config.key);
  std::vector<const Selection*> selections;
  for (const auto& language : languages)
    selections.push_back(&statistics.selected[language_index(statistics, language, config.neurons)]);
  std::vector<double> sizes;
  std::string how;
  if (config.mode == "sum_mean") {
    std::vector<std::vector<double>> each;
    for (const Selection*& selection : selections)
      each.push_back(union_sizes({&selection, 1}, statistics.modules, key));
    sizes = sum_mean_sizes(each);
    how = fmt::format("S = |{}| + mean over {} of their sizes", languages[0],
                      fmt::join(languages.begin() + 1, languages.end(), ", "));
  } else {
    NMOE_CHECK(config.mode == "union", config,
               "allocation.mode = {} is not one of union, sum_mean, similarity, uniform, list", config.mode);
    sizes = union_sizes(selections, statistics.modules, key);
    how = fmt::format("S = |union of the language-specific neurons of {}|", fmt::join(languages, ", "));
  }
  Allocation allocation = allocate_by_count(sizes, rule_of(config));
  allocation.reasons.insert(allocation.reasons.begin(), how + fmt::format(", neurons.key = {}", config.key));
  for (std::size_t i = 0; i < languages.size(); ++i)
    allocation.reasons.insert(
        allocation.reasons.begin() + static_cast<std::ptrdiff_t>(i),
        fmt::format("{}: {} neurons, AP of the last {:.4f}; {}", languages[i], selections[i]->neurons.size(),
                    selections[i]->threshold, selections[i]->rule));
  return allocation;
}

}  // namespace

Allocation allocate_from_files(const AllocationConfig& config, int num_layers) {
  NMOE_CHECK(config.neurons.empty() || config.counts.empty(), config,
             "allocation.neurons = {} and allocation.counts = {}: give one of them", config.neurons,
             config.counts);
  if (config.mode == "list") return allocate_list(config.list);
  if (config.mode == "uniform" && config.neurons.empty() && config.counts.empty()) {
    NMOE_CHECK(num_layers > 0, config,
               "allocation.mode = uniform needs --model or allocation.neurons for the number of layers");
    return allocate_uniform(num_layers, config.experts);
  }
  const std::string& input = config.counts.empty() ? config.neurons : config.counts;
  NMOE_CHECK(!input.empty(), config,
             "nothing to allocate from: give allocation.neurons or --counts FILE.csv --columns a[,b]");
  Allocation allocation =
      config.counts.empty() ? from_neurons(config, read_neuron_file(config.neurons)) : from_counts(config);
  allocation.reasons.insert(allocation.reasons.begin(),
                            fmt::format("input {} sha256 {}", input, sha256_file(input)));
  return allocation;
}

std::string experts_cfg_text(const Allocation& allocation, const std::vector<std::string>& provenance) {
  std::string text;
  const auto add_comment = [&](std::string line) {
    std::replace(line.begin(), line.end(), '\n', ' ');
    text += "# " + line + "\n";
  };
  add_comment("experts per layer, base included, layer 0 first; written by neuronmoe allocate");
  for (const auto& line : provenance) add_comment(line);
  for (const auto& line : allocation.reasons) add_comment(line);
  const auto moe = std::count_if(allocation.num_experts.begin(), allocation.num_experts.end(),
                                 [](int e) { return e > 1; });
  add_comment(fmt::format("{} experts in {} layers, {} of them with new experts", allocation.total(),
                          allocation.num_experts.size(), moe));
  text += fmt::format("ADA_MOE_NUM_EXPERTS_LIST={}\n", fmt::join(allocation.num_experts, ","));
  return text;
}

void write_experts_cfg(const std::string& path, const Allocation& allocation,
                       const std::vector<std::string>& provenance) {
  io::write_file_atomically(path, experts_cfg_text(allocation, provenance));
}

}  // namespace nmoe::analysis

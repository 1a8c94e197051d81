// `allocate` from its options: inputs to sizes per layer, an allocation with its reasons, and experts.cfg.
#include "neuronmoe/analysis/allocate.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "neuronmoe/analysis/compare_parameters.hpp"
#include "neuronmoe/analysis/counts_csv.hpp"
#include "neuronmoe/analysis/layer_sizes.hpp"
#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/analysis/tie_range.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::analysis {
namespace {

CountRule rule_of(const AllocationConfig& config) {
  return {config.e_min, config.e_max, config.rounding, config.min_over};
}

/// Experts from sizes, with the lines that say why.
Allocation from_sizes(const AllocationConfig& config, const LayerSizes& sizes) {
  const CountRule rule = rule_of(config);
  Allocation allocation = allocate_by_count(sizes.total, rule);
  if (config.explain) {
    const auto lines = explain_counts(sizes, rule, allocation);
    const auto layers = std::find_if(allocation.reasons.begin(), allocation.reasons.end(),
                                     [](const std::string& line) { return line.starts_with("layer "); });
    allocation.reasons.erase(layers, allocation.reasons.end());
    allocation.reasons.insert(allocation.reasons.end(), lines.begin(), lines.end());
  }
  allocation.reasons.insert(allocation.reasons.begin(), sizes.how.begin(), sizes.how.end());
  return allocation;
}

Allocation from_counts(const AllocationConfig& config) {
  if (config.mode != AllocationMode::similarity) return from_sizes(config, sizes_from_counts(config));
  const auto columns = split_list(config.columns);
  NMOE_CHECK(columns.size() == 1, config,
             "mode similarity takes one column of the counts CSV with a similarity per layer, got {}: {}",
             columns.size(), config.columns);
  Allocation allocation =
      allocate_by_similarity(read_counts_csv(config.counts, columns)[0], config.similarity_n);
  allocation.reasons.insert(allocation.reasons.begin(), fmt::format("layer similarity = {}", columns[0]));
  return allocation;
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
  if (config.mode == AllocationMode::uniform)
    return allocate_uniform(statistics.modules.num_layers(), config.experts);
  const auto languages = split_list(config.languages);
  NMOE_CHECK(!languages.empty(), config,
             "say which languages to allocate for: allocation.languages = en,el; {} has: {}", config.neurons,
             fmt::join(statistics.languages, ", "));
  if (config.mode == AllocationMode::similarity) return from_similarity(config, statistics, languages);
  const LayerSizes sizes = sizes_from_neurons(config, statistics);
  Allocation allocation = from_sizes(config, sizes);
  allocation.warnings = sizes.warnings;
  if (!statistics.provenance.checkpoint_sha256.empty() && config.add_to.empty())
    allocation.warnings.push_back(config.neurons +
                                  " was measured on a mixture of experts, whose own are not in this list; "
                                  "allocation.add_to adds to them");
  if (sizes.top_k_of_all_tied > 0)
    for (auto& line : explain_ties(config, statistics, sizes, rule_of(config)))
      allocation.warnings.push_back(std::move(line));
  return allocation;
}

Allocation measured(const AllocationConfig& config) {
  const std::string& input = config.counts.empty() ? config.neurons : config.counts;
  NMOE_CHECK(!input.empty(), config,
             "nothing to allocate from: give allocation.neurons or --counts FILE.csv --columns a[,b]");
  Allocation allocation;
  try {
    allocation =
        config.counts.empty() ? from_neurons(config, read_neuron_file(config.neurons)) : from_counts(config);
  } catch (const Error& error) {  // the arithmetic does not know where its numbers come from
    const std::string what = error.what();
    if (error.code() != ErrorCode::bad_data || what.find(input) != std::string::npos) throw;
    throw Error(error.code(), input + ": " + what);
  }
  allocation.reasons.insert(allocation.reasons.begin(),
                            fmt::format("input {} sha256 {}", input, sha256_file(input)));
  return allocation;
}

Allocation allocate(const AllocationConfig& config, const std::optional<model::ModelConfig>& model) {
  if (config.mode == AllocationMode::list) return allocate_list(config.list);
  if (config.mode == AllocationMode::uniform && config.neurons.empty() && config.counts.empty()) {
    NMOE_CHECK(model, config,
               "allocation.mode = uniform needs --model or allocation.neurons for the number of layers");
    return allocate_uniform(model->num_layers, config.experts);
  }
  return measured(config);
}

/// METHOD 4.3: the list holds what a layer has and what it gets.
void add_to_existing(Allocation& allocation, const std::vector<int>& existing, const std::string& from) {
  NMOE_CHECK(existing.size() == allocation.num_experts.size(), bad_data,
             "allocation.add_to = {} has {} layers, {} were allocated; pass a mixture of the same base", from,
             existing.size(), allocation.num_experts.size());
  allocation.reasons.push_back(fmt::format("added to the experts of {}: {} + (E - 1) of {}", from,
                                           fmt::join(existing, ","), fmt::join(allocation.num_experts, ",")));
  for (std::size_t l = 0; l < existing.size(); ++l) {
    allocation.num_experts[l] += existing[l] - 1;
    NMOE_CHECK(allocation.num_experts[l] <= model::max_num_experts, config,
               "layer {} would have {} experts, at most {} are possible; lower allocation.e_max", l,
               allocation.num_experts[l], model::max_num_experts);
  }
}

}  // namespace

Allocation allocate_from_files(const AllocationConfig& config, const std::optional<model::ModelConfig>& model,
                               const std::vector<int>& existing) {
  NMOE_CHECK(config.neurons.empty() || config.counts.empty(), config,
             "allocation.neurons = {} and allocation.counts = {}: give one of them", config.neurons,
             config.counts);
  Allocation allocation = allocate(config, model);
  if (!existing.empty()) add_to_existing(allocation, existing, config.add_to);
  if (!model) return allocation;
  const auto counts = model::count_parameters(*model, allocation.num_experts);
  const std::vector<int> uniform(allocation.num_experts.size(), config.experts);
  for (auto& line : compare_parameters(counts, model::count_parameters(*model, uniform),
                                       fmt::format("uniform {}", config.experts)))
    allocation.reasons.push_back(std::move(line));
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
  for (const auto& line : allocation.warnings) add_comment("warning: " + line);
  const auto moe = std::count_if(allocation.num_experts.begin(), allocation.num_experts.end(),
                                 [](int e) { return e > 1; });
  add_comment(fmt::format("{} experts in {} layers, {} of them with new experts", allocation.total(),
                          allocation.num_experts.size(), moe));
  return text + model::expert_counts_line(allocation.num_experts);
}

void write_experts_cfg(const std::string& path, const Allocation& allocation,
                       const std::vector<std::string>& provenance) {
  io::write_file_atomically(path, experts_cfg_text(allocation, provenance));
}

}  // namespace nmoe::analysis

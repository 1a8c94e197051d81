// `allocate --sweep`: what other settings would have given.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>

#include "neuronmoe/analysis/allocate.hpp"
#include "neuronmoe/analysis/layer_sizes.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/model/parameter_count.hpp"

namespace nmoe::analysis {
namespace {

/// One setting; nothing = as configured or as stored in neurons.h5.
struct Setting {
  int e_min = 1, e_max = 6;
  Reselection select;
};

struct Grid {
  std::vector<double> e_min, e_max, threshold, top_k;
};

double parse_number(const std::string& text, std::string_view key) {
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = key == "threshold" || value == std::floor(value);
  const bool in_range = key == "threshold" ? value >= 0.0 && value <= 1.0 : value >= 1.0 && value < 1e9;
  NMOE_CHECK(error == std::errc() && end == text.data() + text.size() && whole && in_range, config,
             "allocation.sweep: {} = '{}' is not {}", key, text,
             key == "threshold" ? "a number between 0 and 1" : "a whole number from 1 on");
  return value;
}

/// "e_max=4,6;top_k=500,1000"
Grid parse_grid(const std::string& text) {
  Grid grid;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(';', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    begin = end + 1;
    const std::size_t equals = part.find('=');
    const auto names = split_list(part.substr(0, equals));
    const std::string key = names.empty() ? "" : names[0];
    std::vector<double>* values = key == "e_min"       ? &grid.e_min
                                  : key == "e_max"     ? &grid.e_max
                                  : key == "threshold" ? &grid.threshold
                                  : key == "top_k"     ? &grid.top_k
                                                       : nullptr;
    NMOE_CHECK(values != nullptr && equals != std::string::npos && values->empty(), config,
               "allocation.sweep: '{}' is not one of e_min=, e_max=, "
               "threshold=, top_k= with values, each at most once",
               part);
    for (const auto& value : split_list(part.substr(equals + 1))) values->push_back(parse_number(value, key));
    NMOE_CHECK(!values->empty(), config, "allocation.sweep: '{}' has no value", part);
  }
  return grid;
}

std::vector<Setting> settings_of(const Grid& grid, const AllocationConfig& config) {
  const auto or_one = [](const std::vector<double>& values, double otherwise) {
    return values.empty() ? std::vector<double>{otherwise} : values;
  };
  std::vector<Setting> settings;
  for (const double top_k : or_one(grid.top_k, 0)) {
    for (const double threshold : or_one(grid.threshold, -1)) {
      for (const double e_min : or_one(grid.e_min, config.e_min)) {
        for (const double e_max : or_one(grid.e_max, config.e_max)) {
          Setting setting{static_cast<int>(e_min), static_cast<int>(e_max), {}};
          if (top_k > 0) setting.select.top_k = static_cast<std::int64_t>(top_k);
          if (threshold >= 0) setting.select.ap_min = threshold;
          if (setting.e_min <= setting.e_max) settings.push_back(setting);
        }
      }
    }
  }
  NMOE_CHECK(!settings.empty(), config, "allocation.sweep: every e_min is above every e_max");
  return settings;
}

std::string row(const Setting& setting, const CountRule& rule, const LayerSizes& sizes,
                const std::optional<model::ModelConfig>& model) {
  const auto text = [](const auto& value) { return value ? fmt::format("{}", *value) : std::string(); };
  std::string line = fmt::format("{},{},{},{},", setting.e_min, setting.e_max, text(setting.select.ap_min),
                                 text(setting.select.top_k));
  Allocation allocation;
  try {
    allocation = allocate_by_count(sizes.total, rule);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::bad_data) throw;
    return line + ",,,,,,,\"no layer has a neuron\"\n";
  }
  int moe_layers = 0;
  for (const int experts : allocation.num_experts) moe_layers += experts > 1 ? 1 : 0;
  line += fmt::format("{},{},{},", allocation.total(), moe_layers,
                      allocation.total() - static_cast<int>(allocation.num_experts.size()));
  if (model) {
    const auto count = model::count_parameters(*model, allocation.num_experts);
    line += fmt::format("{},{},{},", count.in_new_experts, count.total(), count.active);
  } else {
    line += ",,,";
  }
  return line + fmt::format("\"{}\",\n", fmt::join(allocation.num_experts, ","));
}

}  // namespace

std::string sweep_csv(const AllocationConfig& config, const std::optional<model::ModelConfig>& model) {
  const Grid grid = parse_grid(config.sweep);
  NMOE_CHECK(config.mode == AllocationMode::union_size || config.mode == AllocationMode::sum_mean, config,
             "allocation.sweep needs allocation.mode = {}, not {}",
             list_names(names_among<AllocationMode::union_size, AllocationMode::sum_mean>, " or "),
             name_of(config.mode));
  NMOE_CHECK(config.neurons.empty() != config.counts.empty(), config,
             "allocation.sweep needs one of allocation.neurons and allocation.counts");
  NMOE_CHECK(config.counts.empty() || (grid.threshold.empty() && grid.top_k.empty()), config,
             "allocation.sweep over threshold or top_k selects anew and needs allocation.neurons, not {}",
             config.counts);
  const auto settings = settings_of(grid, config);
  std::optional<NeuronStatistics> statistics;
  if (!config.neurons.empty()) statistics = read_neuron_file(config.neurons);
  std::string text =
      "e_min,e_max,threshold,top_k,experts,moe_layers,new_experts,new_parameters,total_parameters,"
      "active_parameters,list,note\n";
  for (const Setting& setting : settings) {
    const CountRule rule{setting.e_min, setting.e_max, config.rounding, config.min_over};
    const LayerSizes sizes =
        statistics ? sizes_from_neurons(config, *statistics, setting.select) : sizes_from_counts(config);
    text += row(setting, rule, sizes, model);
  }
  return text;
}

}  // namespace nmoe::analysis

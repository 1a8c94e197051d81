// The text files that `analyze` writes on request: expertise.csv, its top rows, and expertise_info.json.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::analysis {
namespace {

/// Returns the first line: the columns of METHOD 1.6, the statistics and then which neuron they belong to.
std::string header(const NeuronStatistics& s) {
  std::string text;
  for_each_statistic(s, [&](std::string_view name, const auto&, const StatisticInfo& info) {
    if (info.in_csv) text.append(name).append(",");
  });
  return text + "layer,unit,uuid,concept,group\n";
}

void append_row(fmt::memory_buffer& out, const NeuronStatistics& s, std::size_t g, std::size_t module,
                std::size_t n) {
  const Module& m = s.modules.modules()[module];
  for_each_statistic(s, [&](std::string_view, const auto& table, const StatisticInfo& info) {
    if (info.in_csv) fmt::format_to(std::back_inserter(out), "{},", static_cast<float>(table[g][n]));
  });
  fmt::format_to(std::back_inserter(out), "{},{},{},{},sense\n", m.name,
                 static_cast<std::int64_t>(n) - m.offset, n, s.languages[g]);
}

std::string info_json(const NeuronStatistics& s, std::size_t g) {
  nlohmann::ordered_json info;
  info["concept"] = s.languages[g];
  info["group"] = "sense";
  info["max_ap"] = s.ap[g].empty() ? 0.0 : *std::max_element(s.ap[g].begin(), s.ap[g].end());
  for (const auto& module : s.modules.modules())
    info["layer_names"].push_back(module.name);  // already sorted
  info["total_neurons"] = s.modules.num_neurons();
  const auto counts = neurons_at_ap(s.ap[g]);
  for (std::size_t i = 0; i < counts.size(); ++i)
    info["neurons_at_ap"][fmt::format("{:.5f}", 0.5 + static_cast<double>(i) * 0.001)] = counts[i];
  return info.dump(2) + "\n";
}

}  // namespace

void write_expertise_csv(const std::string& directory, const NeuronStatistics& s) {
  const std::string first_line = header(s);
  for (std::size_t g = 0; g < s.languages.size(); ++g) {
    const std::string folder = fmt::format("{}/{}/expertise", directory, s.languages[g]);
    io::make_directories(folder);
    fmt::memory_buffer all, top;
    all.append(first_line);
    top.append(first_line);
    for (std::size_t m = 0, n = 0; m < s.modules.modules().size(); ++m) {
      for (std::int64_t u = 0; u < s.modules.modules()[m].width; ++u) append_row(all, s, g, m, n++);
    }
    for (const auto& neuron : s.selected[g].neurons) append_row(top, s, g, neuron.module, neuron.uuid);
    io::write_file_atomically(folder + "/expertise.csv", {all.data(), all.size()});
    io::write_file_atomically(fmt::format("{}/expertise_limited_{}_top.csv", folder, s.selected[g].top_k),
                              {top.data(), top.size()});
    io::write_file_atomically(folder + "/expertise_info.json", info_json(s, g));
  }
}

}  // namespace nmoe::analysis

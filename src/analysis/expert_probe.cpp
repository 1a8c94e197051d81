// Reads, extends and rewrites expert_probe.h5.
#include "neuronmoe/analysis/expert_probe.hpp"

#include <filesystem>

#include "neuron_file_parts.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::analysis {
namespace {

struct Probes {
  std::vector<std::string> languages;
  std::vector<std::uint32_t> layers, ids;
  std::vector<std::uint64_t> totals, steps, high_ap, zero_samples, num_tokens;

  std::size_t row_size() const { return languages.size() * layers.size(); }
};

Probes read_probes(const std::string& path) {
  io::H5File file = io::H5File::open(path, expert_probe_format);
  Probes probes;
  probes.languages = file.read_strings("/language");
  probes.layers = file.read<std::uint32_t>("/expert/layer");
  const std::int64_t experts[] = {static_cast<std::int64_t>(probes.layers.size())};
  probes.ids = file.read<std::uint32_t>("/expert/id", experts);
  probes.totals = file.read<std::uint64_t>("/expert/total", experts);
  probes.steps = file.read<std::uint64_t>("/step");
  const std::int64_t shape[] = {static_cast<std::int64_t>(probes.steps.size()),
                                static_cast<std::int64_t>(probes.languages.size()), experts[0]};
  probes.high_ap = file.read<std::uint64_t>("/high_ap", shape);
  probes.zero_samples = file.read<std::uint64_t>("/zero_samples", shape);
  probes.num_tokens = file.read<std::uint64_t>("/num_tokens", shape);
  return probes;
}

/// The probe as a file of one row.
Probes probe_of(std::int64_t step, const ExpertStatistics& s) {
  Probes probe;
  probe.languages = s.neurons.languages;
  probe.steps = {static_cast<std::uint64_t>(step)};
  for (const auto& expert : s.experts) {
    probe.layers.push_back(static_cast<std::uint32_t>(expert.layer));
    probe.ids.push_back(static_cast<std::uint32_t>(expert.expert));
    probe.totals.push_back(static_cast<std::uint64_t>(expert.total));
  }
  const std::size_t samples = s.sample_language.size();
  for (std::size_t g = 0; g < probe.languages.size(); ++g) {
    for (std::size_t e = 0; e < s.experts.size(); ++e) {
      probe.high_ap.push_back(static_cast<std::uint64_t>(s.experts[e].high_ap[g]));
      probe.zero_samples.push_back(static_cast<std::uint64_t>(s.experts[e].zero_samples[g]));
      std::uint64_t tokens = 0;
      for (std::size_t i = 0; i < samples; ++i)
        if (s.sample_language[i] == probe.languages[g]) tokens += s.count_tokens[e * samples + i];
      probe.num_tokens.push_back(tokens);
    }
  }
  return probe;
}

}  // namespace

void append_probe(const std::string& path, std::int64_t step, const ExpertStatistics& statistics) {
  const Probes probe = probe_of(step, statistics);
  Probes all = probe;
  if (std::filesystem::exists(path)) {
    Probes before = read_probes(path);
    NMOE_CHECK(
        before.languages == probe.languages && before.layers == probe.layers && before.ids == probe.ids,
        config,
        "{}: made with {} languages and {} experts, this run "
        "has {} and {}; remove it or write to another --output",
        path, before.languages.size(), before.layers.size(), probe.languages.size(), probe.layers.size());
    std::size_t kept = 0;
    while (kept < before.steps.size() && before.steps[kept] < probe.steps[0]) ++kept;
    const auto join = [&](auto& rows, const auto& row, std::size_t width) {
      rows.resize(kept * width);
      rows.insert(rows.end(), row.begin(), row.end());
    };
    join(before.steps, probe.steps, 1);
    join(before.high_ap, probe.high_ap, probe.row_size());
    join(before.zero_samples, probe.zero_samples, probe.row_size());
    join(before.num_tokens, probe.num_tokens, probe.row_size());
    all = std::move(before);
  }
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(all.steps.size()),
                                           static_cast<std::int64_t>(all.languages.size()),
                                           static_cast<std::int64_t>(all.layers.size())};
  io::write_h5_atomically(path, io::Storage::compressed, [&](io::H5File& file) {
    write_root_attributes(
        file, expert_probe_format, statistics.neurons.provenance,
        "units of each expert with an average precision of at least ap_high, by training step");
    file.write_attribute("/", "ap_high", statistics.ap_high);
    file.write_attribute("/", "empty", name_of(statistics.empty_policy));
    file.write_strings("/language", all.languages);
    file.write("/expert/layer", all.layers);
    file.write("/expert/id", all.ids);
    file.write("/expert/total", all.totals);
    file.write("/step", all.steps);
    file.write("/high_ap", all.high_ap, shape);
    file.write("/zero_samples", all.zero_samples, shape);
    file.write("/num_tokens", all.num_tokens, shape);
  });
}

}  // namespace nmoe::analysis

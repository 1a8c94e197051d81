// Chooses modules by name and writes their responses, module by module, while they are measured.
#include "neuronmoe/analysis/response_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "neuron_file_parts.hpp"
#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/analysis/responses.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::analysis {
namespace {

constexpr std::int64_t overhead_bytes = 1 << 20;  // of everything but the responses

/// "model.layers.0.mlp.down_proj" of "model.layers.0.mlp.down_proj:0".
std::string_view stem_of(std::string_view name) {
  return name.ends_with(":0") ? name.substr(0, name.size() - 2) : name;
}

bool names(std::string_view entry, const Module& module) {
  return fmt::format(".{}.", stem_of(module.name)).find(fmt::format(".{}.", stem_of(entry))) !=
         std::string::npos;
}

/// "model, layers.0 to layers.3, mlp.down_proj, ..., or whole names (model.layers.0.mlp.down_proj)".
std::string choices_of(const ModuleTable& all) {
  std::vector<std::string> kinds;
  for (const Module& module : all.modules()) {
    const std::string layer = fmt::format("layers.{}.", module.layer);
    const std::string_view stem = stem_of(module.name);
    if (const auto at = stem.find(layer); module.layer == 0 && at != std::string_view::npos)
      kinds.emplace_back(stem.substr(at + layer.size()));
  }
  return fmt::format("model (all of them), layers.0 to layers.{}, {}, or whole names such as {}",
                     all.num_layers() - 1, fmt::join(kinds, ", "), stem_of(all.modules().front().name));
}

/// Writes what the rows and columns of /responses are.
void write_axes(io::H5File& file, const ResponseFile& what) {
  const SampleSet& samples = what.samples;
  const auto pools = static_cast<std::int64_t>(samples.languages.size());
  write_modules(file, ModuleTable(what.modules));
  std::vector<std::int64_t> first_neuron;
  for (const Module& module : what.modules) first_neuron.push_back(module.offset);
  file.write("/module/first_neuron", first_neuron);
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> positions;
  std::vector<std::uint8_t> drawn_for;
  std::vector<std::string> names = samples.languages;
  for (const auto& sample : samples.samples) {
    labels.push_back(sample.language + static_cast<int>(sample.negative ? pools : 0));
    positions.push_back(sample.position);
    drawn_for.insert(drawn_for.end(), sample.drawn_for.begin(), sample.drawn_for.end());
  }
  if (what.provenance.own_negatives)
    for (const std::string& language : samples.languages) names.push_back(language + " negative");
  file.write_strings("/label_name", names);
  file.write_strings("/file", samples.paths);
  file.write("/labels", labels);
  file.write("/sample/position", positions);
  if (!drawn_for.empty()) file.write("/sample/drawn_for", drawn_for, {samples.size(), pools});
}

}  // namespace

std::vector<Module> find_modules(const std::string& wanted, const ModuleTable& all) {
  const auto entries = split_list(wanted);
  NMOE_CHECK(!entries.empty(), config,
             "analysis.responses is set, analysis.response_modules is not: name the modules whose responses "
             "are written; choose from {}",
             choices_of(all));
  std::vector<bool> chosen(all.modules().size(), false);
  for (const std::string& entry : entries) {
    bool any = false;
    for (std::size_t m = 0; m < chosen.size(); ++m) {
      const bool named = names(entry, all.modules()[m]);
      chosen[m] = chosen[m] || named;
      any = any || named;
    }
    NMOE_CHECK(any, config, "analysis.response_modules: '{}' names no module; choose from {}", entry,
               choices_of(all));
  }
  std::vector<Module> modules;
  for (std::size_t m = 0; m < chosen.size(); ++m)
    if (chosen[m]) modules.push_back(all.modules()[m]);
  return modules;
}

std::int64_t ResponseFile::num_neurons() const {
  std::int64_t neurons = 0;
  for (const Module& module : modules) neurons += module.width;
  return neurons;
}

std::int64_t ResponseFile::num_bytes() const {
  return num_neurons() * samples.size() * static_cast<std::int64_t>(sizeof(float));
}

void write_response_file(comm::ExecutionContext& context, const ResponseFile& what,
                         const std::function<void(const ResponseSink&)>& analyze) {
  const std::int64_t num_samples = what.samples.size();
  context.log.info("{}: responses of {} neurons in {} modules to {} sentences: {:.1f} MB will be written",
                   what.path, what.num_neurons(), what.modules.size(), num_samples,
                   static_cast<double>(what.num_bytes()) * 1e-6);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    const std::int64_t free = io::free_space_bytes(what.path), wanted = what.num_bytes() + overhead_bytes;
    NMOE_CHECK(free >= wanted, no_space,
               "analysis.responses = {}: {} bytes are to be written but {} are free; choose fewer modules "
               "(analysis.response_modules), fewer sentences, or another disk",
               what.path, wanted, free);
  });
  std::map<std::int64_t, std::int64_t> first_row;  // of a module, by its first neuron
  std::int64_t rows = 0;
  for (const Module& module : what.modules) {
    first_row[module.offset] = rows;
    rows += module.width;
  }
  std::vector<std::int64_t> num_tokens;
  io::write_h5_atomically(what.path, context.world, [&](io::H5File& file) {
    write_provenance(file, response_file_format, what.provenance,
                     "mean over a sentence's tokens of a Linear module's output (q and k before rotary, gate "
                     "before SiLU): a row per neuron, a column per sentence");
    write_axes(file, what);
    file.make_dataset("/responses", io::ElementType::float32, std::vector<std::int64_t>{rows, num_samples});
    analyze([&](const Module& module, const SiteResponses& mine) {
      const auto found = first_row.find(module.offset);
      if (found == first_row.end()) return;
      const io::FileRange range{(found->second + mine.first_unit) * num_samples,
                                mine.num_units * num_samples};
      file.write_into("/responses", io::ElementType::float32, {&range, range.count > 0 ? 1U : 0U},
                      mine.values.data());
      if (module.expert < 0) num_tokens = mine.num_tokens;  // an expert sees those that are routed to it
    });
    if (!num_tokens.empty()) file.write("/sample/num_tokens", num_tokens);
  });
}

}  // namespace nmoe::analysis

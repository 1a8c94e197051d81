// Writes and reads neurons.h5, and the parts of it that other files share.
#include "neuronmoe/analysis/neuron_file.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "neuron_file_parts.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/hdf5_file.hpp"

namespace nmoe::analysis {
namespace {

const std::vector<io::RecordColumn>& selected_columns() {
  static const std::vector<io::RecordColumn> columns = {
      {"uuid", offsetof(SelectedNeuron, uuid), io::ElementType::uint64},
      {"module", offsetof(SelectedNeuron, module), io::ElementType::uint32},
      {"unit", offsetof(SelectedNeuron, unit), io::ElementType::uint32},
      {"ap", offsetof(SelectedNeuron, ap), io::ElementType::float64}};
  return columns;
}

template <typename T>
std::vector<std::vector<T>> read_table(io::H5File& file, const std::string& name, std::size_t rows,
                                       std::int64_t columns) {
  const std::int64_t shape[] = {static_cast<std::int64_t>(rows), columns};
  const auto flat = file.read<T>(name, shape);
  std::vector<std::vector<T>> table;
  for (std::size_t r = 0; r < rows; ++r) {
    const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(r) * columns;
    table.emplace_back(begin, begin + columns);
  }
  return table;
}

/// Returns the rows of a table, one after another.
template <typename T>
std::vector<T> flat(const std::vector<std::vector<T>>& table) {
  std::vector<T> values;
  for (const auto& row : table) values.insert(values.end(), row.begin(), row.end());
  return values;
}

void write_selections(io::H5File& file, const NeuronStatistics& statistics) {
  file.make_group("/selected");
  for (std::size_t g = 0; g < statistics.selected.size(); ++g) {
    const Selection& selection = statistics.selected[g];
    const std::string name = "/selected/" + statistics.languages[g];
    file.write_records(name, selected_columns(), sizeof(SelectedNeuron), selection.neurons.data(),
                       static_cast<std::int64_t>(selection.neurons.size()));
    file.write_attribute(name, "k", selection.top_k);
    file.write_attribute(name, "ap_min", selection.ap_min);
    file.write_attribute(name, "threshold", selection.threshold);
    file.write_attribute(name, "rule", std::string_view(selection.rule));
    file.write_attribute(name, "ties", name_of(selection.ties));
    file.write_attribute(name, "cut_ap", selection.cut.ap);
    file.write_attribute(name, "cut_tied", selection.cut.tied);
    file.write_attribute(name, "cut_taken", selection.cut.taken);
  }
}

/// What ties at the cut is counted anew: files of before it was stored are read as well.
Selection read_selection(io::H5File& file, const NeuronStatistics& statistics, std::size_t language) {
  const std::string name = "/selected/" + statistics.languages[language];
  const ModuleTable& modules = statistics.modules;
  Selection selection;
  selection.neurons.resize(static_cast<std::size_t>(file.count_records(name, selected_columns())));
  file.read_records(name, selected_columns(), sizeof(SelectedNeuron), selection.neurons.data(),
                    static_cast<std::int64_t>(selection.neurons.size()));
  for (std::size_t i = 0; i < selection.neurons.size(); ++i) {
    const auto& neuron = selection.neurons[i];
    const bool known = neuron.module < modules.modules().size();
    NMOE_CHECK(
        known && neuron.unit < modules.modules()[neuron.module].width &&
            static_cast<std::int64_t>(neuron.uuid) == modules.modules()[neuron.module].offset + neuron.unit,
        bad_data, "{}: {} row {}: uuid {} is not unit {} of module {}", file.path(), name, i, neuron.uuid,
        neuron.unit, neuron.module);
  }
  selection.top_k = file.read_int_attribute(name, "k");
  selection.ap_min = file.read_double_attribute(name, "ap_min");
  selection.threshold = file.read_double_attribute(name, "threshold");
  selection.rule = file.read_string_attribute(name, "rule");
  selection.ties = Ties::uuid;
  if (file.has_attribute(name, "ties"))
    selection.ties = parse_enum<Ties>(file.read_string_attribute(name, "ties"), ErrorCode::bad_data,
                                      fmt::format("{}: attribute ties of {}", file.path(), name));
  selection.seed = static_cast<std::uint64_t>(statistics.provenance.seed);
  selection.cut = ties_at_cut(selection.neurons, statistics.ap[language], selection.ap_min);
  if (auto warning = tie_warning(selection); !warning.empty())
    selection.warnings.push_back(std::move(warning));
  return selection;
}

void write_lape(io::H5File& file, const NeuronStatistics& statistics) {
  const Lape& lape = statistics.lape;
  if (lape.entropy.empty()) return;
  file.write("/lape/entropy", lape.entropy);
  file.write("/lape/probability", flat(lape.probability),
             {static_cast<std::int64_t>(lape.probability.size()), statistics.modules.num_neurons()});
  file.write_attribute("/lape", "bar", lape.bar);
  file.write_attribute("/lape", "threshold", lape.threshold);
  for (std::size_t g = 0; g < lape.selected.size(); ++g)
    file.write("/lape/selected/" + statistics.languages[g], lape.selected[g]);
}

void read_lape(io::H5File& file, NeuronStatistics& statistics) {
  if (!file.exists("/lape")) return;
  Lape& lape = statistics.lape;
  const std::int64_t neurons[] = {statistics.modules.num_neurons()};
  lape.entropy = file.read<double>("/lape/entropy", neurons);
  lape.probability = read_table<float>(file, "/lape/probability", statistics.languages.size(), neurons[0]);
  lape.bar = file.read_double_attribute("/lape", "bar");
  lape.threshold = file.read_double_attribute("/lape", "threshold");
  for (const auto& language : statistics.languages) {
    lape.selected.push_back(file.read<std::uint64_t>("/lape/selected/" + language));
    for (const std::uint64_t uuid : lape.selected.back())
      NMOE_CHECK(uuid < static_cast<std::uint64_t>(neurons[0]), bad_data,
                 "{}: /lape/selected/{}: neuron {} of {}", file.path(), language, uuid, neurons[0]);
  }
}

void write_similarity(io::H5File& file, const NeuronStatistics& statistics) {
  if (statistics.similarity_pairs.empty()) return;
  std::vector<std::string> names;
  for (const auto& [a, b] : statistics.similarity_pairs) names.push_back(a + "," + b);
  file.write_strings("/similarity_pair", names);
  file.write("/similarity", statistics.similarity,
             {static_cast<std::int64_t>(names.size()), statistics.modules.num_layers()});
}

void read_similarity(io::H5File& file, NeuronStatistics& statistics) {
  if (!file.exists("/similarity")) return;
  for (const auto& name : file.read_strings("/similarity_pair")) {
    const std::size_t comma = name.find(',');
    NMOE_CHECK(comma != std::string::npos, bad_data, "{}: /similarity_pair holds '{}', wanted 'a,b'",
               file.path(), name);
    statistics.similarity_pairs.emplace_back(name.substr(0, comma), name.substr(comma + 1));
  }
  const std::int64_t shape[] = {static_cast<std::int64_t>(statistics.similarity_pairs.size()),
                                statistics.modules.num_layers()};
  statistics.similarity = file.read<double>("/similarity", shape);
}

}  // namespace

void write_modules(io::H5File& file, const ModuleTable& modules) {
  std::vector<std::string> names;
  std::vector<std::uint32_t> layers;
  std::vector<std::uint64_t> widths, offsets;
  for (const auto& module : modules.modules()) {
    names.push_back(module.name);
    layers.push_back(static_cast<std::uint32_t>(module.layer));
    widths.push_back(static_cast<std::uint64_t>(module.width));
    offsets.push_back(static_cast<std::uint64_t>(module.offset));
  }
  file.write_strings("/module/name", names);
  file.write("/module/layer", layers);
  file.write("/module/width", widths);
  file.write("/module/offset", offsets);
}

ModuleTable read_modules(io::H5File& file) {
  const auto names = file.read_strings("/module/name");
  const std::int64_t shape[] = {static_cast<std::int64_t>(names.size())};
  const auto layers = file.read<std::uint32_t>("/module/layer", shape);
  const auto widths = file.read<std::uint64_t>("/module/width", shape);
  const auto offsets = file.read<std::uint64_t>("/module/offset", shape);
  std::vector<Module> modules;
  std::uint64_t expected = 0;
  for (std::size_t m = 0; m < names.size(); ++m) {
    constexpr std::uint64_t most = std::uint64_t{1} << 40;
    NMOE_CHECK(widths[m] > 0 && widths[m] < most && layers[m] < 100000 && offsets[m] == expected, bad_data,
               "{}: /module row {} ({}): layer {}, width {}, offset {} (wanted {})", file.path(), m, names[m],
               layers[m], widths[m], offsets[m], expected);
    expected += widths[m];
    modules.push_back({names[m], static_cast<int>(layers[m]), model::Projection::down, -1,
                       static_cast<std::int64_t>(widths[m]), 0});
  }
  return ModuleTable(std::move(modules));
}

void write_statistics(io::H5File& file, const StatisticTables& tables, std::int64_t num_neurons) {
  for_each_statistic(tables, [&](std::string_view name, const auto& table, const StatisticInfo&) {
    file.write(fmt::format("/{}", name), flat(table), {static_cast<std::int64_t>(table.size()), num_neurons});
  });
}

void write_score_tables(io::H5File& file, const NeuronStatistics& statistics) {
  file.write_strings("/language", statistics.languages);
  write_statistics(file, statistics, statistics.modules.num_neurons());
  file.write("/n_pos", statistics.n_pos);
  file.write("/n_neg", statistics.n_neg);
  file.write("/n_tokens", statistics.n_tokens);
  file.write("/n_dropped", statistics.n_dropped);
}

void write_provenance(io::H5File& file, const io::FileFormat& format, const Provenance& provenance,
                      std::string_view definition) {
  file.write_format(format);
  file.write_attribute("/", "model_sha256", std::string_view(provenance.model_sha256));
  file.write_attribute("/", "tokenizer_sha256", std::string_view(provenance.tokenizer_sha256));
  file.write_attribute("/", "corpus_sha256", std::string_view(provenance.corpus_sha256));
  file.write_attribute("/", "config", std::string_view(provenance.config));
  file.write_attribute("/", "version", std::string_view(provenance.version));
  file.write_attribute("/", "seed", provenance.seed);
  if (!provenance.checkpoint_sha256.empty())
    file.write_attribute("/", "checkpoint_sha256", std::string_view(provenance.checkpoint_sha256));
  if (!provenance.bos.empty()) file.write_attribute("/", "bos", std::string_view(provenance.bos));
  file.write_attribute("/", "definition", definition);
}

void write_root_attributes(io::H5File& file, const io::FileFormat& format, const Provenance& provenance,
                           std::string_view definition) {
  write_provenance(file, format, provenance, definition);
  file.write_attribute("/", "tie_rule",
                       "equal responses enter together (scikit-learn average_precision_score)");
  file.write_attribute("/", "positive_class",
                       provenance.own_negatives
                           ? "sentences of the language; negatives: the list of its own sense file"
                           : "sentences of the language; negatives: sentences of all others");
}

LanguageScores scores_of(const NeuronStatistics& statistics, std::size_t language) {
  return {statistics.languages[language], statistics.ap[language], statistics.separation[language]};
}

void append_scores(NeuronStatistics& statistics, const std::vector<NeuronScore>& scores) {
  const std::size_t languages = statistics.languages.size();
  for_each_statistic(statistics,
                     [&](std::string_view, auto& table, const StatisticInfo&) { table.resize(languages); });
  for (std::size_t i = 0; i < scores.size(); ++i) {
    for_each_statistic(statistics, scores[i],
                       [&](std::string_view, auto& table, const auto& value, const StatisticInfo&) {
                         table[i % languages].push_back(value);
                       });
  }
}

void write_neuron_file(const std::string& path, const NeuronStatistics& statistics) {
  io::write_h5_atomically(path, io::Storage::compressed, [&](io::H5File& file) {
    write_root_attributes(
        file, neuron_file_format, statistics.provenance,
        "mean over a sentence's tokens of a Linear module's output (q and k before rotary, gate "
        "before SiLU); average precision of that mean for one language against the others");
    write_modules(file, statistics.modules);
    write_score_tables(file, statistics);
    write_similarity(file, statistics);
    write_lape(file, statistics);
    write_selections(file, statistics);
  });
}

NeuronStatistics read_neuron_file(const std::string& path) {
  io::H5File file = io::H5File::open(path, neuron_file_format);
  NeuronStatistics statistics;
  statistics.modules = read_modules(file);
  statistics.languages = file.read_strings("/language");
  const std::size_t languages = statistics.languages.size();
  const std::int64_t neurons = statistics.modules.num_neurons();
  for_each_statistic(statistics, [&](std::string_view name, auto& table, const StatisticInfo& info) {
    using Value = typename std::decay_t<decltype(table)>::value_type::value_type;
    table.resize(languages);
    if (info.optional && !file.exists(fmt::format("/{}", name))) return;
    table = read_table<Value>(file, fmt::format("/{}", name), languages, neurons);
  });
  const std::int64_t shape[] = {static_cast<std::int64_t>(languages)};
  statistics.n_pos = file.read<std::uint64_t>("/n_pos", shape);
  statistics.n_neg = file.read<std::uint64_t>("/n_neg", shape);
  statistics.n_tokens = file.read<std::uint64_t>("/n_tokens", shape);
  statistics.n_dropped = file.read<std::uint64_t>("/n_dropped", shape);
  read_similarity(file, statistics);
  read_lape(file, statistics);
  Provenance& from = statistics.provenance;
  from.model_sha256 = file.read_string_attribute("/", "model_sha256");
  from.tokenizer_sha256 = file.read_string_attribute("/", "tokenizer_sha256");
  from.corpus_sha256 = file.read_string_attribute("/", "corpus_sha256");
  from.config = file.read_string_attribute("/", "config");
  from.version = file.read_string_attribute("/", "version");
  from.seed = file.read_int_attribute("/", "seed");
  if (file.has_attribute("/", "checkpoint_sha256"))
    from.checkpoint_sha256 = file.read_string_attribute("/", "checkpoint_sha256");
  if (file.has_attribute("/", "bos")) from.bos = file.read_string_attribute("/", "bos");
  for (std::size_t g = 0; g < languages; ++g)
    statistics.selected.push_back(read_selection(file, statistics, g));
  return statistics;
}

}  // namespace nmoe::analysis

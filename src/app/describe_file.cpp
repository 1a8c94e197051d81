// What `inspect` says about one file or a model directory.
#include "describe_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <vector>

#include "describe_contents.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/one_line.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "neuronmoe/io/safetensors.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/hf_model.hpp"

namespace nmoe::app {
namespace {

constexpr int max_depth = 32;  // of groups in a file; ours have 6

std::string attribute_text(io::H5File& file, const std::string& object, const std::string& name) {
  // The file knows the type; the reader for another one refuses.
  try {
    const std::string text = file.read_string_attribute(object, name);
    if (text.find('\n') == std::string::npos) return text;
    return fmt::format("({} lines)", std::count(text.begin(), text.end(), '\n'));
  } catch (const Error&) {
  }
  try {
    return fmt::format("{}", file.read_int_attribute(object, name));
  } catch (const Error&) {
    return fmt::format("{}", file.read_double_attribute(object, name));
  }
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const auto extent : shape) text += fmt::format("{}{}", text.empty() ? "" : ", ", extent);
  return "[" + text + "]";
}

/// Reads every number, so that checksums inside the file are compared. @throws Error(bad_data)
void read_through(io::H5File& file, const std::string& name, const io::DatasetInfo& info) {
  constexpr std::int64_t piece = 1 << 22;
  std::vector<char> buffer;
  const std::int64_t total = info.num_elements();
  for (std::int64_t begin = 0; begin < total; begin += piece) {
    const io::FileRange range{begin, std::min(piece, total - begin)};
    buffer.resize(static_cast<std::size_t>(range.count * io::size_of(info.type)));
    file.read_ranges(name, info.type, info.shape, {&range, 1}, buffer.data());
  }
}

std::string place_in(const std::string& group, const std::string& member) {
  return (group == "/" ? "" : group) + "/" + member;
}

void require_depth(const io::H5File& file, const std::string& name, int depth) {
  NMOE_CHECK(depth <= max_depth, bad_data, "{}: groups are nested deeper than {} levels: {:.60}...",
             file.path(), max_depth, name);
}

void list_object(io::H5File& file, const std::string& name, int depth, std::string& text) {
  require_depth(file, name, depth);
  std::vector<std::string> members;
  std::string what;
  switch (file.kind(name)) {
    case io::H5File::ObjectKind::group:
      members = file.list(name);
      what = "group";
      break;
    case io::H5File::ObjectKind::type:
      what = "type";
      break;
    case io::H5File::ObjectKind::dataset:
      const auto info = file.info(name);
      const bool numbers = info.kind == io::DatasetInfo::Kind::numbers;
      what = fmt::format("{} {}",
                         numbers                                    ? name_of(info.type)
                         : info.kind == io::DatasetInfo::Kind::text ? "text"
                                                                    : "records",
                         shape_text(info.shape));
      if (numbers) read_through(file, name, info);
      break;
  }
  if (name != "/") text += fmt::format("  {:<44} {}\n", on_one_line(name), what);
  for (const auto& attribute : file.list_attributes(name)) {
    text += fmt::format("      @{} = {}\n", on_one_line(attribute),
                        on_one_line(attribute_text(file, name, attribute)));
  }
  for (const auto& member : members) list_object(file, place_in(name, member), depth + 1, text);
}

/// Does the library's part of reading `name` and, if it is a group, of all that is below it.
void try_object(io::H5File& file, const std::string& name, int depth) {
  require_depth(file, name, depth);
  const io::H5File::ObjectKind kind = file.kind(name);
  if (kind == io::H5File::ObjectKind::dataset) {
    static_cast<void>(file.info(name));
    file.check_storage(name);
  }
  if (kind != io::H5File::ObjectKind::group) return;
  for (const auto& member : file.list(name)) try_object(file, place_in(name, member), depth + 1);
}

/// The same for attributes, which only files of ours are read for.
void try_attributes(io::H5File& file, const std::string& name) {
  for (const auto& attribute : file.list_attributes(name))
    static_cast<void>(attribute_text(file, name, attribute));
  if (file.kind(name) != io::H5File::ObjectKind::group) return;
  for (const auto& member : file.list(name)) try_attributes(file, place_in(name, member));
}

std::string describe_h5(const std::string& path) {
  auto file = io::H5File::open(path, {}, io::SealCheck::done);  // demands complete = 1
  std::string text =
      fmt::format("{}: HDF5, {} bytes, complete\n", on_one_line(path), io::file_size_bytes(path));
  text += contents_of(file);
  list_object(file, "/", 0, text);
  return text + "intact: every number was read\n";
}

std::string describe_experts(const std::string& path) {
  const std::vector<int> counts = model::load_expert_counts(path);
  const int total = std::accumulate(counts.begin(), counts.end(), 0);
  return fmt::format("{}: {} experts in {} layers, {} of them new: {}\n", path, total, counts.size(),
                     total - static_cast<int>(counts.size()), fmt::join(counts, ","));
}

/// Parameters by element type, over all files of a model.
std::string weights_lines(const std::vector<std::string>& safetensors) {
  std::map<std::string, std::int64_t> parameters;
  std::int64_t tensors = 0;
  for (const std::string& path : safetensors) {
    const io::SafetensorsReader reader(path);
    for (const auto& name : reader.names()) {
      const auto& entry = reader.entry(name);
      parameters[entry.dtype] += entry.shape.num_elements();
      ++tensors;
    }
  }
  std::string text;
  for (const auto& [dtype, count] : parameters)
    text +=
        fmt::format("  {:<16} {:.3f} million in {}\n", "parameters", static_cast<double>(count) / 1e6, dtype);
  return fmt::format("  {:<16} {}\n", "tensors", tensors) + text;
}

std::string describe_csv(const std::string& path) {
  std::istringstream in(io::read_file(path));
  std::string header, row;
  std::getline(in, header);
  std::int64_t rows = 0;
  while (std::getline(in, row)) rows += !row.empty();
  return fmt::format("{}: CSV, {} rows below\n  {:.400}\n", path, rows, on_one_line(header));
}

std::string describe_safetensors(const std::string& path) {
  const io::SafetensorsReader reader(path);  // demands a header that accounts for every byte
  std::string text =
      fmt::format("{}: safetensors, {} bytes\n{}", path, io::file_size_bytes(path), weights_lines({path}));
  for (const auto& name : reader.names()) {
    const auto& entry = reader.entry(name);
    text += fmt::format("  {:<56} {} {}\n", on_one_line(name), entry.dtype, entry.shape.to_string());
  }
  return text + "intact: the header accounts for every byte\n";
}

std::string describe_json(const std::string& path) {
  const nlohmann::json file = io::read_json(path);
  std::string text = fmt::format("{}: JSON\n", path) + contents_of_json(path);
  for (const auto& [key, value] : file.items())
    text += fmt::format("  {} = {:.100}\n", on_one_line(key), on_one_line(value.dump()));
  return text;
}

std::string describe_jsonl(const std::string& path) {
  std::istringstream in(io::read_file(path));
  std::int64_t num_lines = 0;
  std::string last;
  for (std::string line; std::getline(in, line);) {
    io::parse_json(line, fmt::format("{}:{}", path, ++num_lines));
    last = line;
  }
  return fmt::format("{}: {} lines of JSON\n{}  the last: {:.200}\nintact: every line was parsed\n", path,
                     num_lines, contents_of_rows(path), on_one_line(last));
}

}  // namespace

namespace {

struct Kind {
  const char* extension;
  std::string (*describe)(const std::string& path);
};
constexpr Kind kinds[] = {{".cfg", describe_experts},
                          {".safetensors", describe_safetensors},
                          {".csv", describe_csv},
                          {".json", describe_json},
                          {".jsonl", describe_jsonl}};

/// The kind that a name's extension says; nullptr for HDF5.
const Kind* kind_of(const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  const auto* const found = std::find_if(std::begin(kinds), std::end(kinds),
                                         [&](const Kind& kind) { return extension == kind.extension; });
  return found == std::end(kinds) ? nullptr : found;
}

}  // namespace

bool described_as_h5(const std::string& path) {
  return kind_of(path) == nullptr;
}

std::string describe_file(const std::string& path) {
  const Kind* const kind = kind_of(path);
  return kind == nullptr ? describe_h5(path) : kind->describe(path);
}

void look_through(const std::string& path, const std::vector<std::string>& objects) {
  io::H5File file = io::H5File::open_foreign(path);
  for (const std::string& object : objects) {
    try_object(file, object, 0);
    if (object == "/") try_attributes(file, object);
  }
}

std::string describe_model(const std::string& directory) {
  const auto c = model::load_model_config(directory + "/config.json");
  std::vector<std::string> weights;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") weights.push_back(entry.path().string());
  std::sort(weights.begin(), weights.end());
  return fmt::format(
      "{}: Hugging Face model ({})\n  {} layers, hidden {}, "
      "intermediate {}, {} heads ({} key-value), vocabulary {}\n{}"
      "  sha256 of config and weights {}\n",
      directory, c.model_type, c.num_layers, c.hidden_size, c.intermediate_size, c.num_attention_heads,
      c.num_key_value_heads, c.vocab_size, weights_lines(weights), model::model_directory_hash(directory));
}

std::string describe_adapter(const std::string& directory) {
  const std::string config = directory + "/adapter_config.json";
  std::string text = fmt::format("{}: PEFT-MoE adapter\n", on_one_line(directory));
  const nlohmann::json file = io::read_json(config);
  for (const char* key : {"peft_type", "topk", "num_experts", "base_model_name_or_path"})
    if (file.contains(key)) text += fmt::format("  {:<16} {:.300}\n", key, on_one_line(file[key].dump()));
  const std::string weights = directory + "/adapter_model.safetensors";
  NMOE_CHECK(std::filesystem::exists(weights), bad_data, "{}: it is missing beside {}", weights, config);
  return text + weights_lines({weights}) + "intact: the header accounts for every byte\n";
}

}  // namespace nmoe::app

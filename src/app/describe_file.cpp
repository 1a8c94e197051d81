// What `inspect` says about one file or a model directory.
#include "describe_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "neuronmoe/io/safetensors.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/hf_model.hpp"

namespace nmoe::app {
namespace {

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

void list_object(io::H5File& file, const std::string& name, std::string& text) {
  std::vector<std::string> members;
  std::string what;
  try {
    members = file.list(name);
    what = "group";
  } catch (const Error&) {
    try {
      const auto info = file.info(name);
      const bool numbers = info.kind == io::DatasetInfo::Kind::numbers;
      what = fmt::format("{} {}",
                         numbers                                    ? name_of(info.type)
                         : info.kind == io::DatasetInfo::Kind::text ? "text"
                                                                    : "records",
                         shape_text(info.shape));
      if (numbers) read_through(file, name, info);
    } catch (const Error& error) {
      if (!name.starts_with("/types/")) throw;
      what = "type";
    }
  }
  if (name != "/") text += fmt::format("  {:<44} {}\n", name, what);
  for (const auto& attribute : file.list_attributes(name)) {
    text += fmt::format("  {:<44}   @{} = {}\n", "", attribute, attribute_text(file, name, attribute));
  }
  for (const auto& member : members) list_object(file, (name == "/" ? "" : name) + "/" + member, text);
}

std::string describe_h5(const std::string& path) {
  auto file = io::H5File::open(path);  // demands complete = 1
  std::string text = fmt::format("{}: HDF5, {} bytes, complete\n", path, io::file_size_bytes(path));
  list_object(file, "/", text);
  return text + "intact: every number was read\n";
}

std::string describe_experts(const std::string& path) {
  const std::vector<int> counts = model::load_expert_counts(path);
  return fmt::format("{}: {} experts in {} layers: {}\n", path,
                     std::accumulate(counts.begin(), counts.end(), 0), counts.size(), fmt::join(counts, ","));
}

std::string describe_safetensors(const std::string& path) {
  const io::SafetensorsReader reader(path);  // demands a header that accounts for every byte
  std::string text = fmt::format("{}: safetensors, {} bytes\n", path, io::file_size_bytes(path));
  for (const auto& name : reader.names()) {
    const auto& entry = reader.entry(name);
    text += fmt::format("  {:<56} {} {}\n", name, entry.dtype, entry.shape.to_string());
  }
  return text + "intact: the header accounts for every byte\n";
}

std::string describe_json(const std::string& path) {
  const nlohmann::json file = io::read_json(path);
  std::string text = fmt::format("{}: JSON\n", path);
  for (const auto& [key, value] : file.items()) text += fmt::format("  {} = {:.100}\n", key, value.dump());
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
  return fmt::format("{}: {} lines of JSON; the last: {:.200}\nintact: every line was parsed\n", path,
                     num_lines, last);
}

}  // namespace

std::string describe_file(const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  if (extension == ".cfg") return describe_experts(path);
  if (extension == ".safetensors") return describe_safetensors(path);
  if (extension == ".json") return describe_json(path);
  if (extension == ".jsonl") return describe_jsonl(path);
  return describe_h5(path);
}

std::string describe_model(const std::string& directory) {
  const auto c = model::load_model_config(directory + "/config.json");
  return fmt::format(
      "{}: Hugging Face model ({})\n  {} layers, hidden {}, "
      "intermediate {}, {} heads ({} key-value), vocabulary {}\n"
      "  sha256 of config and weights {}\n",
      directory, c.model_type, c.num_layers, c.hidden_size, c.intermediate_size, c.num_attention_heads,
      c.num_key_value_heads, c.vocab_size, model::model_directory_hash(directory));
}

}  // namespace nmoe::app

// neuronmoe inspect FILE|DIR: what is in something we wrote, and whether it is intact.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "commands.hpp"
#include "model_setup.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/hf_model.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

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
                         numbers                                    ? io::name_of(info.type)
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

std::string describe_model(const std::string& directory) {
  const auto c = model::load_model_config(directory + "/config.json");
  return fmt::format(
      "{}: Hugging Face model ({})\n  {} layers, hidden {}, intermediate {}, {} heads ({} key-value), "
      "vocabulary {}\n"
      "  sha256 of config and weights {}\n",
      directory, c.model_type, c.num_layers, c.hidden_size, c.intermediate_size, c.num_attention_heads,
      c.num_key_value_heads, c.vocab_size, model::model_directory_hash(directory));
}

std::string describe_experts(const std::string& path) {
  constexpr std::string_view key = "ADA_MOE_NUM_EXPERTS_LIST=";
  const std::string text = io::read_file(path, 1 << 20);
  const auto at = text.find(key);
  NMOE_CHECK(at != std::string::npos, bad_data, "{}: no line {}", path, key);
  const std::string list = text.substr(at + key.size(), text.find('\n', at) - at - key.size());
  const int num_layers = static_cast<int>(std::count(list.begin(), list.end(), ',')) + 1;
  const auto counts = model::load_expert_counts(path, num_layers);
  int total = 0;
  for (const int count : counts) total += count;
  return fmt::format("{}: {} experts in {} layers: {}\n", path, total, num_layers, list);
}

/// A checkpoint step: facts and verdict. Collective.
std::string describe_step(comm::ExecutionContext& context, const std::string& directory) {
  const std::string fault = io::verify_manifest(context.world, directory);
  return on_rank_zero(context, [&] {
    NMOE_CHECK(fault.empty(), bad_data, "{} is damaged: {}", directory, fault);
    std::string text = directory + ": checkpoint\n";
    for (const auto& [name, value] : io::read_manifest_facts(directory)) {
      const bool long_value = value.find('\n') != std::string::npos;
      text += fmt::format("  {} = {}\n", name, long_value ? fmt::format("({} bytes)", value.size()) : value);
    }
    for (const auto& entry : fs::directory_iterator(directory)) {
      text += fmt::format("  {} ({} bytes)\n", entry.path().filename().string(), entry.file_size());
    }
    return text + "intact: every byte matches manifest.json\n";
  });
}

/// A run directory: every step and which one a resume would take. Collective.
std::string describe_run(comm::ExecutionContext& context, const std::string& directory) {
  const io::ValidStep newest = io::newest_valid_step(context.world, directory);
  std::string text = directory + ": run directory\n";
  for (const auto& reason : newest.skipped) text += fmt::format("  damaged: {}\n", reason);
  NMOE_CHECK(newest, bad_data, "{}: no intact checkpoint in it", directory);
  return text + fmt::format("  newest intact checkpoint: {}\n", newest.directory);
}

bool has_steps(const std::string& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (io::step_of_directory_name(entry.path().filename().string())) return true;
  }
  return false;
}

}  // namespace

int run_inspect(comm::ExecutionContext& context, const AppConfig& config) {
  const std::string& path = config.run.input;
  require_option(path, "run.input", "inspect FILE or inspect DIRECTORY");
  const std::string kind = on_rank_zero(context, [&]() -> std::string {
    NMOE_CHECK(fs::exists(path), bad_data, "{}: there is no such file or directory", path);
    if (!fs::is_directory(path)) return fs::path(path).extension() == ".cfg" ? "experts" : "h5";
    if (fs::exists(fs::path(path) / "manifest.json")) return "step";
    if (fs::exists(fs::path(path) / "config.json")) return "model";
    NMOE_CHECK(has_steps(path), bad_data, "{}: neither a checkpoint nor a run or model directory", path);
    return "run";
  });
  std::string text;
  if (kind == "step") {
    text = describe_step(context, path);
  } else if (kind == "run") {
    text = describe_run(context, path);
  } else {
    text = on_rank_zero(context, [&] {
      return kind == "experts" ? describe_experts(path)
             : kind == "model" ? describe_model(path)
                               : describe_h5(path);
    });
  }
  if (context.world.rank() == 0) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace nmoe::app

// The files of a base by name: written into checkpoints, compared when one is resumed.
#include "neuronmoe/train/base_files.hpp"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::train {

namespace {

const std::string config_file = "config.json";
const std::string config_key = config_file + ": ";

/// Names that only one of the two has, or with another hash.
std::vector<std::string> different_names(const nlohmann::json& stored, const nlohmann::json& found) {
  std::vector<std::string> names;
  for (const auto& [name, hash] : found.items())
    if (!stored.contains(name) || stored[name] != hash) names.push_back(name);
  for (const auto& [name, hash] : stored.items())
    if (!found.contains(name)) names.push_back(name);
  return names;
}

bool names_config_keys(const nlohmann::json& files) {
  for (const auto& [name, hash] : files.items())
    if (name.starts_with(config_key)) return true;
  return false;
}

}  // namespace

std::string base_files(const std::string& directory, std::span<const model::FileDigest> files) {
  if (files.empty()) return "";
  nlohmann::json by_name = nlohmann::json::object();
  for (const auto& file : files) by_name[file.name] = file.sha256;
  const nlohmann::json config = io::read_json(directory + "/" + config_file);
  for (const auto& [key, value] : config.items()) by_name[config_key + key] = sha256_text(value.dump());
  return by_name.dump();
}

std::string base_difference(const std::string& stored_text, const std::string& found_text) {
  const auto stored = nlohmann::json::parse(stored_text, nullptr, false);
  const auto found = nlohmann::json::parse(found_text, nullptr, false);
  if (!stored.is_object() || !found.is_object()) return "";
  const bool by_key = names_config_keys(stored) && names_config_keys(found);
  std::string changed;
  bool weights = false, config_listed = false;
  for (const std::string& name : different_names(stored, found)) {
    const bool is_key = name.starts_with(config_key);
    if (is_key && !by_key) continue;
    config_listed = config_listed || is_key;
    weights = weights || (!is_key && name != config_file);
    if (name == config_file && by_key) continue;  // its keys say it
    changed += (changed.empty() ? "" : ", ") + name;
  }
  if (by_key && !config_listed && stored[config_file] != found[config_file])
    changed += (changed.empty() ? "" : ", ") + config_file + " in its layout only";
  if (changed.empty()) return "";
  return fmt::format(" (different: {}; the weights are {})", changed, weights ? "different" : "the same");
}

}  // namespace nmoe::train

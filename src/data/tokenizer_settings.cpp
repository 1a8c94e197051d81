// tokenizer_config.json, and the files beside a tokenizer.model that say whether a sentence begins with a
// BOS.
#include "tokenizer_settings.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t max_file_bytes = std::int64_t{64} << 20;

json parse_object(const std::string& text, const std::string& where) {
  json settings = io::parse_json(text, where);
  NMOE_CHECK(settings.is_object(), bad_data, "{} is not an object", where);
  return settings;
}

/// The token that `settings` names under `key`, "" if it names none.
std::string named_token(const json& settings, const char* key, const std::string& where) {
  if (!settings.contains(key) || settings[key].is_null()) return "";
  const json& value = settings[key];
  const bool wrapped = value.is_object() && value.contains("content");
  const json& content = wrapped ? value["content"] : value;
  NMOE_CHECK(content.is_string(), bad_data, "{}: {} is not a token", where, key);
  return content.get<std::string>();
}

}  // namespace

std::string settings_path(const std::string& path) {
  return (fs::path(path).parent_path() / "tokenizer_config.json").string();
}

std::vector<std::string> settings_files(const std::string& path) {
  return {settings_path(path), (fs::path(path).parent_path() / "tokenizer.json").string()};
}

std::string read_settings(const std::string& path) {
  const std::string settings = settings_path(path);
  return fs::is_regular_file(settings) ? io::read_file(settings, max_file_bytes) : "";
}

TokenizerSettings parse_settings(const std::string& text, const std::string& where) {
  const json settings = parse_object(text, where);
  TokenizerSettings result{
      named_token(settings, "bos_token", where), named_token(settings, "eos_token", where), {}};
  if (!settings.contains("add_bos_token") || settings["add_bos_token"].is_null()) return result;
  NMOE_CHECK(settings["add_bos_token"].is_boolean(), bad_data, "{}: add_bos_token is not true or false",
             where);
  result.add_bos_token = settings["add_bos_token"].get<bool>();
  return result;
}

BosRule bos_rule_of_model(const std::string& path, const BosRule& own, const TokenIds& id_of) {
  const fs::path file(path);
  if (file.filename() != "tokenizer.model") return own;
  if (const fs::path whole = file.parent_path() / "tokenizer.json"; fs::is_regular_file(whole))
    return {bos_of_post_processor(io::read_file(whole.string(), max_file_bytes), whole.string(), id_of),
            whole.filename().string()};
  const std::string text = read_settings(path), where = settings_path(path);
  if (text.empty()) return own;
  const TokenizerSettings settings = parse_settings(text, where);
  if (!settings.add_bos_token) return own;
  BosRule rule{-1, fs::path(where).filename().string()};
  if (!*settings.add_bos_token) return rule;
  rule.id = settings.bos_token.empty() ? own.id : id_of(settings.bos_token);
  NMOE_CHECK(rule.id >= 0, bad_data, "{}: add_bos_token is true, but bos_token \"{}\" is not in {}", where,
             settings.bos_token, path);
  return rule;
}

std::string settings_of_copy(const Tokenizer& tokenizer, std::int64_t bos_token_id) {
  const std::string text = read_settings(tokenizer.path());
  const fs::path file(tokenizer.path());
  if (file.extension() == ".json") return text;
  const bool has_settings = file.filename() == "tokenizer.model" && !text.empty();
  json settings = has_settings ? parse_object(text, settings_path(tokenizer.path())) : json::object();
  std::int64_t bos_id = tokenizer.bos_rule().id;
  if (!tokenizer.bos_rule().stated) bos_id = bos_token_id;
  NMOE_CHECK(bos_id < tokenizer.vocab_size(), config,
             "bos_token_id = {} is not a token of {}, which has {}; set it to one, or leave it out", bos_id,
             tokenizer.name(), tokenizer.vocab_size());
  settings["add_bos_token"] = bos_id >= 0;
  if (bos_id >= 0) settings["bos_token"] = tokenizer.token(static_cast<std::int32_t>(bos_id));
  if (tokenizer.eos_id() >= 0 && !settings.contains("eos_token"))
    settings["eos_token"] = tokenizer.token(tokenizer.eos_id());
  return settings.dump(2) + "\n";
}

}  // namespace nmoe::data

// tokenizer.json of Hugging Face tokenizers: the byte-level BPE part of it, everything else refused by name.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "bpe_tokenizer.hpp"
#include "json_fields.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "tokenizer_json_model.hpp"
#include "tokenizer_settings.hpp"

namespace nmoe::data {
namespace {

using nlohmann::json;
using Ids = std::unordered_map<std::string, std::int32_t>;

constexpr std::int64_t max_file_bytes = std::int64_t{64} << 20;
constexpr int max_depth = 12;

[[noreturn]] void refuse_type(const JsonObject& object, const std::string& type) {
  NMOE_CHECK(false, bad_data, "{} is \"{}\", which is not supported", object.where("type"), type);
}

/// The parts of a Sequence, or the object itself.
std::vector<JsonObject> parts_of(const JsonObject& object, const char* list) {
  if (object.text("type") != "Sequence") return {object};
  object.allow({"type", list});
  std::vector<JsonObject> parts;
  for (const json& part : object.array(list))
    parts.emplace_back(part, fmt::format("{}[{}]", object.where(list), parts.size()));
  return parts;
}

void read_normalizer(const JsonObject& root, BpeParts& parts) {
  if (!root.has("normalizer")) return;
  for (const JsonObject& step : parts_of(root.object("normalizer"), "normalizers")) {
    const std::string type = step.text("type");
    if (type != "NFC") refuse_type(step, type);
    step.allow({"type"});
    parts.nfc = true;
  }
}

void check_byte_level(const JsonObject& object) {
  object.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  object.flag("trim_offsets", true);  // about positions in the text, which we do not give
}

void read_split(const JsonObject& split, BpeParts& parts) {
  split.allow({"type", "pattern", "behavior", "invert"});
  const JsonObject pattern = split.object("pattern");
  pattern.allow({"Regex"});
  NMOE_CHECK(split.text("behavior") == "Isolated", bad_data, "{} is \"{}\"; only Isolated is supported",
             split.where("behavior"), split.text("behavior"));
  NMOE_CHECK(!split.flag("invert", false), bad_data, "{} is true, which is not supported",
             split.where("invert"));
  parts.splits.push_back(pattern.text("Regex"));
  NMOE_CHECK(!parts.splits.back().empty(), bad_data, "{} is empty", pattern.where("Regex"));
}

/// Digits: every digit a piece of its own, or every run of them.
void read_digits(const JsonObject& digits, BpeParts& parts) {
  digits.allow({"type", "individual_digits"});
  parts.splits.emplace_back(digits.flag("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
}

/// Split or Digits, as many as there are, and then ByteLevel.
void read_pre_tokenizer(const JsonObject& root, BpeParts& parts) {
  const auto steps = parts_of(root.object("pre_tokenizer"), "pretokenizers");
  const std::string last = steps.empty() ? "" : steps.back().text("type");
  NMOE_CHECK(last == "ByteLevel", bad_data,
             "{}: only ByteLevel, with Split or Digits before it, is supported; it ends in \"{}\"",
             root.where("pre_tokenizer"), last);
  for (std::size_t i = 0; i + 1 < steps.size(); ++i) {
    const std::string type = steps[i].text("type");
    if (type == "Split")
      read_split(steps[i], parts);
    else if (type == "Digits")
      read_digits(steps[i], parts);
    else
      refuse_type(steps[i], type);
  }
  const JsonObject& byte_level = steps.back();
  check_byte_level(byte_level);
  parts.add_prefix_space = byte_level.flag("add_prefix_space", true);
  NMOE_CHECK(steps.size() == 1 || !parts.add_prefix_space, bad_data,
             "{}: add_prefix_space behind a Split or Digits is not supported", byte_level.where());
  if (byte_level.flag("use_regex", true)) parts.splits.emplace_back(gpt2_split);
}

/// Returns the id of the special token before the text in "single" of a TemplateProcessing, −1 for none.
std::int32_t read_template(const JsonObject& object, const TokenIds& id_of) {
  object.allow({"type", "single", "pair", "special_tokens"});
  const json& single = object.array("single");
  std::string before;
  bool seen_text = false;
  for (std::size_t i = 0; i < single.size(); ++i) {
    const JsonObject piece(single[i], fmt::format("{}[{}]", object.where("single"), i));
    piece.allow({"SpecialToken", "Sequence"});
    if (piece.has("Sequence")) {
      NMOE_CHECK(!seen_text && piece.object("Sequence").text("id") == "A", bad_data,
                 "{}: the text \"A\" once is what is supported", piece.where());
      seen_text = true;
      continue;
    }
    NMOE_CHECK(!seen_text && before.empty(), bad_data,
               "{}: one special token before the text is supported, not more and none behind it",
               piece.where());
    before = piece.object("SpecialToken").text("id");
  }
  NMOE_CHECK(seen_text, bad_data, "{} has no text \"A\"", object.where("single"));
  if (before.empty()) return -1;
  const JsonObject token = object.object("special_tokens").object(before.c_str());
  const json& token_ids = token.array("ids");
  NMOE_CHECK(token_ids.size() == 1, bad_data, "{} needs to be one id", token.where("ids"));
  const std::int32_t bos_id = token_id(token_ids[0], token.where("ids"));
  NMOE_CHECK(id_of(before) == bos_id, bad_data, "{}: \"{}\" is not the token of id {}", token.where("ids"),
             before, bos_id);
  return bos_id;
}

/// Returns the id of the BOS that it puts before a text, −1 for none.
std::int32_t read_post_processor(const JsonObject& root, const TokenIds& id_of) {
  std::int32_t bos_id = -1;
  if (!root.has("post_processor")) return bos_id;
  for (const JsonObject& step : parts_of(root.object("post_processor"), "processors")) {
    const std::string type = step.text("type");
    if (type == "ByteLevel")
      check_byte_level(step);
    else if (type == "TemplateProcessing")
      bos_id = std::max(bos_id, read_template(step, id_of));
    else
      refuse_type(step, type);
  }
  return bos_id;
}

void check_decoder(const JsonObject& root) {
  for (const JsonObject& step : parts_of(root.object("decoder"), "decoders")) {
    const std::string type = step.text("type");
    if (type != "ByteLevel") refuse_type(step, type);
    check_byte_level(step);
  }
}

/// BOS and EOS. tokenizer.json does not say which token ends a document: tokenizer_config.json beside it
/// does, and without one the names of Llama 3 and of GPT-2 and Qwen.
void read_names(const std::string& config_text, const std::string& path, const Ids& ids, BpeParts& parts) {
  std::string eos, bos;
  if (!config_text.empty()) {
    const std::string where = settings_path(path);
    const TokenizerSettings settings = parse_settings(config_text, where);
    eos = settings.eos_token;
    bos = settings.bos_token;
    for (const std::string& name : {eos, bos})
      NMOE_CHECK(name.empty() || ids.contains(name), bad_data, "{}: token \"{}\" is not in {}", where, name,
                 path);
  }
  for (const char* known : {"<|end_of_text|>", "<|endoftext|>", "</s>"})
    if (eos.empty() && ids.contains(known)) eos = known;
  if (!eos.empty()) parts.eos_id = ids.at(eos);
  parts.bos_id = bos.empty() || parts.bos_rule.id >= 0 ? parts.bos_rule.id : ids.at(bos);
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer_json(const std::string& text, const std::string& config,
                                                const std::string& path) {
  const json document = io::parse_json(text, path, max_depth);
  const JsonObject root(document, path + ": tokenizer");
  root.allow({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
              "post_processor", "decoder", "model"});
  BpeParts parts;
  parts.kind = "tokenizer.json";
  parts.path = path;
  parts.sha256 = sha256_text(text);
  // The short sections first: a file of another kind is named as such before its vocabulary is looked at.
  read_normalizer(root, parts);
  read_pre_tokenizer(root, parts);
  check_decoder(root);
  const Ids ids = read_bpe_model(root, parts);
  const auto id_of = [&](const std::string& token) { return ids.contains(token) ? ids.at(token) : -1; };
  parts.bos_rule = {read_post_processor(root, id_of), std::filesystem::path(path).filename().string()};
  read_names(config, path, ids, parts);
  return make_bpe_tokenizer(std::move(parts));
}

std::int32_t bos_of_post_processor(const std::string& text, const std::string& path, const TokenIds& id_of) {
  const json document = io::parse_json(text, path, max_depth);
  return read_post_processor(JsonObject(document, path + ": tokenizer"), id_of);
}

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::string& path) {
  const std::string text = io::read_file(path, max_file_bytes);
  return parse_tokenizer_json(text, read_settings(path), path);
}

}  // namespace nmoe::data

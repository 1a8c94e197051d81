// Reads vocabulary, merges and added tokens of a tokenizer.json.
#include "tokenizer_json_model.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "byte_alphabet.hpp"

namespace nmoe::data {
namespace {

using nlohmann::json;
using Ids = std::unordered_map<std::string, std::int32_t>;

/// Ids may have gaps (real files have few): a lone huge id must not cost memory.
void check_dense(std::int32_t id, std::size_t num_tokens, const std::string& where) {
  const std::size_t limit = 2 * num_tokens + 4096;
  NMOE_CHECK(static_cast<std::size_t>(id) < limit, bad_data,
             "{}: id {} is far beyond the {} tokens of the file", where, id, num_tokens);
}

bool is_empty_or_null(const json& value) {
  return value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty());
}

/// Settings of the model that would change the ids and are not implemented.
void check_settings(const JsonObject& model, const json& raw) {
  model.allow({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
               "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (raw.contains("type"))
    NMOE_CHECK(model.text("type") == "BPE", bad_data,
               "{} is \"{}\"; only byte-level BPE is read (a sentencepiece model comes as tokenizer.model)",
               model.where("type"), model.text("type"));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    NMOE_CHECK(!raw.contains(key) || is_empty_or_null(raw[key]), bad_data,
               "{} is set, which is not supported; byte-level BPE has none", model.where(key));
  NMOE_CHECK(!model.has("dropout") || (raw["dropout"].is_number() && raw["dropout"].get<double>() == 0.0),
             bad_data, "{} is set, which would make encoding random", model.where("dropout"));
  NMOE_CHECK(!model.flag("byte_fallback", false), bad_data,
             "{} is true, which is not supported; give the sentencepiece tokenizer.model of this model",
             model.where("byte_fallback"));
  model.flag("fuse_unk", false);  // without effect: every byte has a token
}

/// Token -> id as spelled; fills the bytes of each id.
Ids read_vocab(const JsonObject& model, BpeParts& parts) {
  const json& vocab = model.at("vocab");
  NMOE_CHECK(vocab.is_object() && !vocab.empty(), bad_data, "{} is not an object of tokens and ids",
             model.where("vocab"));
  Ids ids;
  ids.reserve(vocab.size());
  std::int32_t largest = 0;
  for (const auto& [spelling, value] : vocab.items()) {
    const std::int32_t id = token_id(value, model.where("vocab") + "[\"" + spelling + "\"]");
    check_dense(id, vocab.size(), model.where("vocab"));
    NMOE_CHECK(!spelling.empty(), bad_data, "{} has an empty token", model.where("vocab"));
    ids.emplace(spelling, id);
    largest = std::max(largest, id);
  }
  parts.tokens.resize(static_cast<std::size_t>(largest) + 1);
  std::vector<bool> taken(parts.tokens.size());
  for (const auto& [spelling, id] : ids) {
    const auto at = static_cast<std::size_t>(id);
    NMOE_CHECK(!taken[at], bad_data, "{}: id {} is given twice", model.where("vocab"), id);
    taken[at] = true;
    // A token outside the alphabet can never come out of a merge; it is only decoded.
    if (auto bytes = bytes_of_spelling(spelling)) parts.tokens[at] = std::move(*bytes);
  }
  return ids;
}

/// The two halves of a merge, "a b" or ["a", "b"].
std::pair<std::string, std::string> halves(const json& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  const std::string text = merge.is_string() ? merge.get<std::string>() : "";
  const std::size_t space = text.find(' ');
  NMOE_CHECK(space != std::string::npos && text.find(' ', space + 1) == std::string::npos, bad_data,
             "{} is neither \"a b\" nor [\"a\", \"b\"]", where);
  return {text.substr(0, space), text.substr(space + 1)};
}

void read_merges(const JsonObject& model, const Ids& ids, BpeParts& parts) {
  const json& merges = model.array("merges");
  parts.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto place = [&] { return fmt::format("{}[{}]", model.where("merges"), i); };
    const auto [left, right] = halves(merges[i], place());
    const auto id_of = [&](const std::string& spelling) {
      const auto found = ids.find(spelling);
      NMOE_CHECK(found != ids.end(), bad_data, "{}: \"{}\" is not in the vocabulary", place(), spelling);
      NMOE_CHECK(!parts.tokens[static_cast<std::size_t>(found->second)].empty(), bad_data,
                 "{}: \"{}\" has characters that stand for no byte", place(), spelling);
      return found->second;
    };
    parts.merges.push_back({id_of(left), id_of(right), id_of(left + right), static_cast<std::int32_t>(i)});
  }
}

AddedToken parse_added_token(const JsonObject& entry) {
  entry.allow({"id", "content", "special", "lstrip", "rstrip", "single_word", "normalized"});
  AddedToken token;
  token.id = token_id(entry.at("id"), entry.where("id"));
  token.content = entry.text("content");
  NMOE_CHECK(!token.content.empty(), bad_data, "{} is empty", entry.where("content"));
  token.lstrip = entry.flag("lstrip", false);
  token.rstrip = entry.flag("rstrip", false);
  token.single_word = entry.flag("single_word", false);
  token.normalized = entry.flag("normalized", !entry.flag("special", false));
  return token;
}

/// Hugging Face tokenizers does not take the ids of the list: a token of the vocabulary has its id there, any
/// other the next one behind all. Files where that gives other ids than they say are refused.
void read_added_tokens(const JsonObject& root, Ids& ids, BpeParts& parts) {
  if (!root.has("added_tokens")) return;
  const json& list = root.array("added_tokens");
  auto next = static_cast<std::int32_t>(ids.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const JsonObject entry(list[i], fmt::format("{}[{}]", root.where("added_tokens"), i));
    AddedToken token = parse_added_token(entry);
    const auto found = ids.find(token.content);
    const std::int32_t id = found != ids.end() ? found->second : next;
    NMOE_CHECK(token.id == id, bad_data,
               "{} is {}, but \"{}\" has id {} in the vocabulary or by its place behind it",
               entry.where("id"), token.id, token.content, id);
    NMOE_CHECK(found != ids.end() || static_cast<std::size_t>(id) >= parts.tokens.size(), bad_data,
               "{} is {}, which the vocabulary, having gaps, uses too", entry.where("id"), id);
    next = std::max(next, id + 1);
    ids.emplace(token.content, token.id);
    parts.added.push_back(std::move(token));
  }
}

}  // namespace

Ids read_bpe_model(const JsonObject& root, BpeParts& parts) {
  const JsonObject model = root.object("model");
  check_settings(model, root.at("model"));
  parts.whole_pieces = model.flag("ignore_merges", false);
  Ids ids = read_vocab(model, parts);
  read_merges(model, ids, parts);
  read_added_tokens(root, ids, parts);
  return ids;
}

}  // namespace nmoe::data

#pragma once
// What the files around a vocabulary say: tokenizer_config.json, and who puts a BOS before a sentence.
#include <functional>
#include <optional>
#include <string>

#include "neuronmoe/data/tokenizer.hpp"

namespace nmoe::data {

/// Id of a token, −1 if it is none.
using TokenIds = std::function<std::int32_t(const std::string&)>;

/// The part of a tokenizer_config.json that is read.
struct TokenizerSettings {
  std::string bos_token, eos_token;  ///< "" if it names none
  std::optional<bool> add_bos_token;
};
/// Reads the text of one. @param where path, for messages   @throws Error(bad_data)
TokenizerSettings parse_settings(const std::string& text, const std::string& where);

/// Returns the path of the tokenizer_config.json beside the tokenizer file `path`, whether it is there or
/// not.
std::string settings_path(const std::string& path);
/// Returns the text of that file, "" if there is none.
std::string read_settings(const std::string& path);

/// Returns the BOS that the post_processor of a tokenizer.json puts before a text, −1 for none.
/// @throws Error(bad_data) for a post_processor that does anything else
std::int32_t bos_of_post_processor(const std::string& text, const std::string& path, const TokenIds& id_of);

/// Returns the rule that the files beside the sentencepiece model `path` give it, as AutoTokenizer goes by
/// them, or `own`. Only a tokenizer.model has files that belong to it.
BosRule bos_rule_of_model(const std::string& path, const BosRule& own, const TokenIds& id_of);

}  // namespace nmoe::data

#pragma once
// The model and added tokens of a tokenizer.json.
#include <string>
#include <unordered_map>

#include "bpe_tokenizer.hpp"
#include "json_fields.hpp"

namespace nmoe::data {

/// Fills tokens, merges, whole_pieces and added of `parts`; returns content -> id of model and added tokens.
/// @throws Error(bad_data) naming the field
std::unordered_map<std::string, std::int32_t> read_bpe_model(const JsonObject& root, BpeParts& parts);

}  // namespace nmoe::data

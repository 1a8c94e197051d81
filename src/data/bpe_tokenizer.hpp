#pragma once
// Byte-level BPE: what a loader found in a tokenizer.json or rank file, and the tokenizer made of it.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "added_tokens.hpp"
#include "bpe_model.hpp"
#include "neuronmoe/data/tokenizer.hpp"

namespace nmoe::data {

/// Everything a byte-level BPE tokenizer needs, checked by the loader.
struct BpeParts {
  std::string kind, path, sha256;
  std::vector<std::string> tokens;  ///< bytes of each id of the model, empty where it has none
  std::vector<BpeMerge> merges;
  bool whole_pieces = false;
  bool nfc = false;
  /// Expressions of the pre-tokenizer, each applied to the pieces that the one before it leaves; none: text
  /// is one piece.
  std::vector<std::string> splits;
  bool add_prefix_space = false;
  std::vector<AddedToken> added;
  std::int32_t bos_id = -1, eos_id = -1;
  BosRule bos_rule;
};

/// GPT-2's expression, which ByteLevel{use_regex: true} stands for, and those of the rank files.
extern const char* const gpt2_split;
extern const char* const llama3_split;
extern const char* const qwen_split;

/// A vocabulary may lack bytes: encode() refuses the text that needs one, with Error(bad_data).
/// @throws Error(bad_data) if a split expression is refused
std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeParts parts);

}  // namespace nmoe::data

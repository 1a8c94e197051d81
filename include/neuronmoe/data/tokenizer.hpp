#pragma once
// Text to token ids and back. tokenize, analyze, specialize and evaluate use it through this interface.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nmoe::data {

/// Which token stands before a sentence by a tokenizer's own files; bos_token_id of a config.json has no say
/// (METHOD 1.2).
struct BosRule {
  std::int32_t id = -1;  ///< −1: none
  std::string source;    ///< name of the file whose rule it is
  bool stated = true;    ///< false: none, because a sentencepiece model without a BOS is all there is
  /// Returns "none (tokenizer.json)" or "128000 (tokenizer.json)".
  std::string to_string() const;
};

/// Const members may be called from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Returns the ids of `text` alone: no BOS, no EOS. Added tokens that are spelled out in `text`
  /// ("<|endoftext|>") become their ids, as in Hugging Face tokenizers; sentencepiece encodes the names of
  /// its control symbols as text.
  /// @throws Error(bad_data) if `text` is not UTF-8 (sentencepiece replaces what is ill-formed by U+FFFD)
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// Returns the text behind `ids`: decode(encode(x)) == x unless the tokenizer normalizes x. Added tokens
  /// appear spelled out, sentencepiece's control symbols do not; bytes that form no character become U+FFFD.
  /// @throws Error(bad_data) for an id outside the vocabulary
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  virtual std::int64_t vocab_size() const = 0;  ///< largest id + 1, added tokens included
  virtual std::int32_t bos_id() const = 0;      ///< −1 if there is none
  virtual std::int32_t eos_id() const = 0;      ///< −1 if there is none
  /// Returns the token as the vocabulary spells it. @throws Error(bad_data) for an id outside the vocabulary
  virtual std::string token(std::int32_t id) const = 0;
  /// Says whether a sentence begins with a BOS: what "special tokens on" means to Hugging Face's
  /// AutoTokenizer.
  virtual const BosRule& bos_rule() const = 0;
  /// Returns the kind and file, for messages: "sentencepiece spm.model".
  virtual std::string name() const = 0;

  /// Returns the ids of a sentence: the BOS, if bos_rule() has one, and encode(text).
  std::vector<std::int32_t> encode_sentence(std::string_view text) const;
  /// Returns the file it came from and its SHA-256.
  const std::string& path() const { return path_; }
  const std::string& sha256() const { return sha256_; }

 protected:
  Tokenizer(std::string path, std::string sha256) : path_(std::move(path)), sha256_(std::move(sha256)) {}

 private:
  std::string path_, sha256_;
};

/// Returns the path of the tokenizer file behind `path`: the file itself, or tokenizer.model, tokenizer.json
/// or qwen.tiktoken in a directory, in that order. @throws Error(bad_data) naming what was looked for.
std::string find_tokenizer_file(const std::string& path);
/// Returns the tokenizer files that a model directory holds, in it or in its original/ (where Llama's own
/// lies): several forms of one tokenizer, as a rule. Not collective.
std::vector<std::string> list_tokenizer_files(const std::string& directory);
/// Returns the files beside the tokenizer file `path` whose settings go with it, whether they are there or
/// not.
std::vector<std::string> settings_files(const std::string& path);
/// Loads the tokenizer behind `path`: a sentencepiece .model, a tokenizer.json, a tiktoken rank file, or a
/// directory. @throws Error(bad_data) for an unreadable or unsupported file, Error(config) if the build lacks
/// the library.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);
/// Loads a sentencepiece model (the build may lack the library: Error(config)). Its bos_rule() is that of the
/// first of these beside a tokenizer.model: the post_processor of a tokenizer.json, add_bos_token of a
/// tokenizer_config.json; else the model's own BOS, if it has one.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path);

/// Loads a byte-level BPE tokenizer.json of Hugging Face tokenizers; eos_token and bos_token come from
/// tokenizer_config.json beside it, or else from well-known names. @throws Error(bad_data) naming the field
/// for anything that is damaged or not supported.
std::unique_ptr<Tokenizer> load_tokenizer_json(const std::string& path);
/// Does the same from memory. @param config text of tokenizer_config.json, empty if there is none
/// @param path for messages
std::unique_ptr<Tokenizer> parse_tokenizer_json(const std::string& text, const std::string& config,
                                                const std::string& path);

/// Returns the text of the tokenizer_config.json that has to stand beside a copy of the tokenizer's file
/// (tokenizer.model or tokenizer.json) so that the copy keeps its settings and its bos_rule(), or "". A rule
/// that is not stated becomes `bos_token_id` (−1: none). @throws Error(config) if that is no token of it
std::string settings_of_copy(const Tokenizer& tokenizer, std::int64_t bos_token_id);

/// Whose rank file: it settles the split expression, the special tokens and the normalization.
enum class RankFamily { by_size, llama3, qwen, gpt2 };
/// Loads a tiktoken rank file, lines of "base64 rank". by_size knows the real vocabularies by their number of
/// ranks. @throws Error(bad_data) naming the line
std::unique_ptr<Tokenizer> load_rank_file(const std::string& path, RankFamily family = RankFamily::by_size);
std::unique_ptr<Tokenizer> parse_rank_file(const std::string& bytes, const std::string& path,
                                           RankFamily family);

}  // namespace nmoe::data

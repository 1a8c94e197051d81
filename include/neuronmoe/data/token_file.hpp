#pragma once
// tokens.h5: text as token ids with language and old/new mark per document (DESIGN 7). Written by tokenize,
// read by pretrain, train and evaluate.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/io/file_format.hpp"
#include "neuronmoe/io/file_seal.hpp"

namespace nmoe::data {

inline constexpr io::FileFormat token_file_format{"neuronmoe-tokens", 1};

/// Whether a document is in a language the base already knows. Decides the LPR target (METHOD 6.3).
enum class Mark : std::uint8_t { new_language = 0, old_language = 1 };
constexpr auto enum_names(Mark) {
  return std::to_array<EnumName<Mark>>({{Mark::old_language, "old"}, {Mark::new_language, "new"}});
}

/// What a token file says about itself.
struct TokenFileInfo {
  std::int64_t vocab_size = 0;
  std::int32_t eos_id = -1;
  std::string tokenizer_sha256, inputs_sha256;
  std::vector<std::string> languages;  ///< `lang` of a document is an index into this list
  /// The tokenizer's BOS, −1: it has none; no value: a file of a program that did not note it.
  std::optional<std::int32_t> bos_id = {};
};

/// Documents one after another; each ends with EOS.
struct TokenDocuments {
  std::vector<std::uint32_t> ids;
  std::vector<std::uint64_t> lengths;  ///< tokens per document, EOS included
  std::vector<std::uint16_t> lang;
  std::vector<std::uint8_t> mark;
  /// Of each document's text, or both empty on every rank: UTF-8 bytes, and count_words.
  std::vector<std::uint64_t> bytes = {}, words = {};
  std::int64_t num_docs() const { return static_cast<std::int64_t>(lengths.size()); }
};

/// Writes tokens.h5 atomically from the documents of all ranks in rank order: the same bytes for any number
/// of ranks that hold the same documents in the same order. Collective. @throws Error(no_space|io)
void write_token_file(comm::Communicator& comm, const std::string& path, const TokenDocuments& mine,
                      const TokenFileInfo& info);

/// Reads what a token file says about itself, without its tokens. Not collective. @throws Error(bad_data)
TokenFileInfo read_token_file_info(const std::string& path);

/// Bytes and words of the text that each document of a token file was made from.
struct TextSizes {
  std::vector<std::uint64_t> bytes, words;
};
/// Reads them; no value if the file has none (an older program wrote it). Not collective.
/// @throws Error(bad_data) naming the file and the document if they cannot be sizes of its `num_docs` texts
std::optional<TextSizes> read_text_sizes(const std::string& path, std::int64_t num_docs,
                                         io::SealCheck seal = io::SealCheck::wanted);

/// A token file in memory. Not collective.
class TokenFile {
 public:
  /// @throws Error(bad_data) naming file and fault: not a token file or a newer one, incomplete, offsets not
  /// ascending, a language listed twice, language or mark out of range, id >= vocab_size, a document without
  /// EOS at its end.
  explicit TokenFile(const std::string& path, io::SealCheck seal = io::SealCheck::wanted);

  const std::string& path() const { return path_; }
  const TokenFileInfo& info() const { return info_; }
  std::int64_t num_docs() const { return static_cast<std::int64_t>(lang_.size()); }
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(ids_.size()); }
  std::uint32_t largest_id() const { return largest_id_; }  ///< that occurs
  /// Returns the ids of document `doc`, EOS included.
  std::span<const std::uint32_t> document(std::int64_t doc) const;
  int lang(std::int64_t doc) const { return lang_[static_cast<std::size_t>(doc)]; }
  Mark mark(std::int64_t doc) const { return static_cast<Mark>(mark_[static_cast<std::size_t>(doc)]); }
  /// Returns the index of a language name; −1 if the file has none of it.
  int language_index(const std::string& name) const;

 private:
  std::string path_;
  TokenFileInfo info_;
  std::vector<std::uint32_t> ids_;
  std::uint32_t largest_id_ = 0;
  std::vector<std::uint64_t> offset_;
  std::vector<std::uint16_t> lang_;
  std::vector<std::uint8_t> mark_;
};

}  // namespace nmoe::data

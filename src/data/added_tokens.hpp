#pragma once
// Added tokens of a tokenizer.json: whole strings that are cut out of the text before normalization and
// splitting, longest match first, as Hugging Face tokenizers does.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nmoe::data {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool lstrip = false, rstrip = false;  ///< also takes the white space before, behind it
  bool single_word = false;             ///< not inside a word
  bool normalized = false;              ///< looked for in the normalized text
};

/// A set of added tokens as a trie of bytes.
class AddedTokens {
 public:
  /// Contents are not empty.
  explicit AddedTokens(std::vector<AddedToken> tokens);
  AddedTokens(AddedTokens&&) = default;  // nodes point into tokens_

  /// Calls on_text(part) for the text between tokens (never empty) and on_token(id), in order.
  template <class OnText, class OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    std::size_t done = 0;
    for (Match match; next_match(text, done, match);) {
      if (done < match.begin) on_text(text.substr(done, match.begin - done));
      on_token(match.token->id);
      done = match.end;
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  struct Match {
    std::size_t begin = 0, end = 0;  ///< with the stripped white space
    std::size_t search_from = 0;     ///< where the search for the next one starts
    const AddedToken* token = nullptr;
  };
  struct Node {
    std::vector<std::pair<unsigned char, std::uint32_t>> children;
    const AddedToken* token = nullptr;
  };
  bool next_match(std::string_view text, std::size_t done, Match& match) const;
  const AddedToken* longest_at(std::string_view text, std::size_t at) const;
  std::size_t next_candidate(std::string_view text, std::size_t from) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<bool, 256> begins_token_{};
  int only_first_byte_ = -1;  ///< the byte that begins every token, −1 if there are several
};

}  // namespace nmoe::data

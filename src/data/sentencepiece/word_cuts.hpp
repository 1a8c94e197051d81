#pragma once
// Where a text may be cut so that its parts have, one after another, the pieces of the whole. The
// sentencepiece library takes more than a hundred bytes for each byte that it encodes at once.
#include <cstddef>
#include <string>
#include <string_view>

namespace nmoe::data {

/// Cuts in front of a single space between two words. That changes no piece where the model is BPE (merges
/// do not look further than the piece they make), changes no character of a text before it looks for pieces,
/// and has no piece that goes on behind a word's end; a unigram model adds scores up over the whole text.
class WordCuts {
 public:
  /// @param model serialized ModelProto that the library accepts
  explicit WordCuts(std::string_view model);

  /// Says why texts are not cut; empty if they are.
  const std::string& obstacle() const { return obstacle_; }

  struct Part {
    std::size_t end, next;  ///< [begin, end) is the part, and the rest begins at `next`
  };
  /// Returns the part that begins at `begin`: up to the first place to cut that leaves it `min_bytes` long,
  /// or to the end of the text.
  Part part(std::string_view text, std::size_t begin, std::size_t min_bytes) const;

 private:
  std::string obstacle_;
  bool drops_space_ = false;  // the library puts a space in front of every text
};

}  // namespace nmoe::data

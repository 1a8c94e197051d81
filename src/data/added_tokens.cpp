// Finds added tokens in a text, by a trie over their bytes.
#include "added_tokens.hpp"

#include <algorithm>

#include "utf8.hpp"

namespace nmoe::data {
namespace {

bool is_inside_word(std::string_view text, std::size_t begin, std::size_t end) {
  if (begin > 0) {
    std::size_t at = previous_character(text, begin);
    if (is_word_character(next_code_point(text, at))) return true;
  }
  return end < text.size() && is_word_character(next_code_point(text, end));
}

std::size_t skip_white_space_back(std::string_view text, std::size_t at, std::size_t stop) {
  while (at > stop) {
    const std::size_t previous = previous_character(text, at);
    std::size_t end = previous;
    if (!is_white_space(next_code_point(text, end))) break;
    at = previous;
  }
  return std::max(at, stop);
}

std::size_t skip_white_space(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    std::size_t next = at;
    if (!is_white_space(next_code_point(text, next))) break;
    at = next;
  }
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), nodes_(1) {
  int num_first_bytes = 0;
  for (const AddedToken& token : tokens_) {
    const auto first = static_cast<unsigned char>(token.content[0]);
    if (!begins_token_[first]) ++num_first_bytes;
    begins_token_[first] = true;
    only_first_byte_ = num_first_bytes == 1 ? first : -1;
    std::uint32_t node = 0;
    for (const char c : token.content) {
      const auto byte = static_cast<unsigned char>(c);
      const auto& children = nodes_[node].children;
      const auto found = std::find_if(children.begin(), children.end(),
                                      [&](const auto& child) { return child.first == byte; });
      if (found != children.end()) {
        node = found->second;
        continue;
      }
      const auto fresh = static_cast<std::uint32_t>(nodes_.size());
      nodes_[node].children.emplace_back(byte, fresh);
      nodes_.emplace_back();
      node = fresh;
    }
    nodes_[node].token = &token;
  }
}

const AddedToken* AddedTokens::longest_at(std::string_view text, std::size_t at) const {
  const AddedToken* longest = nullptr;
  const Node* node = nodes_.data();
  for (; at < text.size(); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const auto found = std::find_if(node->children.begin(), node->children.end(),
                                    [&](const auto& child) { return child.first == byte; });
    if (found == node->children.end()) break;
    node = &nodes_[found->second];
    if (node->token != nullptr) longest = node->token;
  }
  return longest;
}

std::size_t AddedTokens::next_candidate(std::string_view text, std::size_t from) const {
  if (only_first_byte_ >= 0) {
    const std::size_t found = text.find(static_cast<char>(only_first_byte_), from);
    return std::min(found, text.size());
  }
  while (from < text.size() && !begins_token_[static_cast<unsigned char>(text[from])]) ++from;
  return from;
}

bool AddedTokens::next_match(std::string_view text, std::size_t done, Match& match) const {
  if (tokens_.empty()) return false;
  for (std::size_t at = next_candidate(text, match.search_from); at < text.size();
       at = next_candidate(text, at)) {
    const AddedToken* token = longest_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    const std::size_t end = at + token->content.size();
    if (token->single_word && is_inside_word(text, at, end)) {
      at = end;
      continue;
    }
    match = {at, end, end, token};
    if (token->lstrip) match.begin = skip_white_space_back(text, at, done);
    if (token->rstrip) match.end = skip_white_space(text, end);
    return true;
  }
  return false;
}

}  // namespace nmoe::data

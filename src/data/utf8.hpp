#pragma once
// Small UTF-8 helpers of the tokenizers.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nmoe::data {

/// Code point at text[at]; `at` moves behind it. `text` is well-formed and at < text.size().
inline char32_t next_code_point(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t first = byte(at++);
  if (first < 0x80U) return first;
  char32_t value = first < 0xE0U ? first & 0x1FU : first < 0xF0U ? first & 0x0FU : first & 0x07U;
  for (int more = first < 0xE0U ? 1 : first < 0xF0U ? 2 : 3; more > 0; --more)
    value = value << 6U | (byte(at++) & 0x3FU);
  return value;
}

/// Position of the character that ends before `at` (at > 0, well-formed text).
inline std::size_t previous_character(std::string_view text, std::size_t at) {
  --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) --at;
  return at;
}

/// `bytes` with U+FFFD for every ill-formed sequence (one per maximal subpart, as Rust and Python do).
std::string replace_ill_formed(std::string bytes);

/// Number of pieces that Python's re.split(r"\s+", text) has: runs of white space, and one. `text` is
/// well-formed.
std::uint64_t count_words(std::string_view text);
/// Unicode White_Space.
bool is_white_space(char32_t c);
/// A word character of Rust's regex crate: Alphabetic, Mark, Decimal_Number, Connector_Punctuation, joiners.
bool is_word_character(char32_t c);

}  // namespace nmoe::data

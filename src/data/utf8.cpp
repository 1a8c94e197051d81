// Repairs ill-formed UTF-8 and classifies characters.
#include "utf8.hpp"

#include <utf8proc.h>

#include "neuronmoe/data/jsonl.hpp"

namespace nmoe::data {
namespace {

/// Length of the well-formed character at the front of `text`, or 0; `bad` is then the length of the part
/// that one U+FFFD stands for.
std::size_t character_length(std::string_view text, std::size_t& bad) {
  const auto first = static_cast<unsigned char>(text[0]);
  bad = 1;
  if (first < 0x80U) return 1;
  if (first < 0xC2U || first > 0xF4U) return 0;
  const std::size_t length = first >= 0xF0U ? 4 : first >= 0xE0U ? 3 : 2;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return 0;
    const auto c = static_cast<unsigned char>(text[i]);
    unsigned low = 0x80U, high = 0xBFU;
    if (i == 1 && first == 0xE0U) low = 0xA0U;
    if (i == 1 && first == 0xF0U) low = 0x90U;
    if (i == 1 && first == 0xEDU) high = 0x9FU;
    if (i == 1 && first == 0xF4U) high = 0x8FU;
    if (c < low || c > high) return 0;
    bad = i + 1;
  }
  return length;
}

}  // namespace

std::string replace_ill_formed(std::string bytes) {
  if (is_valid_utf8(bytes)) return bytes;
  std::string text;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    std::size_t bad = 1;
    const std::size_t length = character_length(rest, bad);
    if (length == 0)
      text += "\xEF\xBF\xBD";
    else
      text += rest.substr(0, length);
    rest.remove_prefix(length == 0 ? bad : length);
  }
  return text;
}

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::uint64_t count_words(std::string_view text) {
  std::uint64_t words = 1;
  bool in_white_space = false;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    // Python counts the information separators, which Unicode does not.
    const bool white = is_white_space(c) || (c >= 0x1C && c <= 0x1F);
    if (white && !in_white_space) ++words;
    in_white_space = white;
  }
  return words;
}

bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // joiners, and the circled and squared letters that are Alphabetic without being letters
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

}  // namespace nmoe::data

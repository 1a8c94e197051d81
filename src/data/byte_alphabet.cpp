// GPT-2's spelling of bytes as printable characters, in both directions.
#include "byte_alphabet.hpp"

#include <array>

#include "utf8.hpp"

namespace nmoe::data {
namespace {

constexpr char32_t num_characters = 0x100 + 68;

constexpr bool is_itself(unsigned byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

struct Tables {
  std::array<char32_t, 256> character{};
  std::array<int, num_characters> byte{};  // -1: not of the alphabet

  constexpr Tables() {
    for (int& b : byte) b = -1;
    char32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      character[b] = is_itself(b) ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<int>(b);
    }
  }
};
constexpr Tables tables;

}  // namespace

std::string spelling_of_byte(unsigned char byte) {
  const char32_t c = tables.character[byte];
  if (c < 0x80U) return {static_cast<char>(c)};
  return {static_cast<char>(0xC0U | c >> 6U), static_cast<char>(0x80U | (c & 0x3FU))};
}

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  std::string bytes;
  for (std::size_t at = 0; at < spelling.size();) {
    const char32_t c = next_code_point(spelling, at);
    if (c >= num_characters || tables.byte[c] < 0) return std::nullopt;
    bytes += static_cast<char>(tables.byte[c]);
  }
  return bytes;
}

}  // namespace nmoe::data

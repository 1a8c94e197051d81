// Normalizes text to NFC by utf8proc, and only the stretches that may need it.
#include "nfc.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "utf8.hpp"

namespace nmoe::data {
namespace {

constexpr std::uint8_t suspect = 255;  // no canonical combining class is that high
constexpr int max_decomposition = 8;
constexpr utf8proc_int32_t end_of_unicode = 0x110000;
constexpr auto compose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

/// Per code point: its canonical combining class, or `suspect` if its NFC quick check is No or Maybe, that
/// is if NFC changes it or may join it to the character before.
std::vector<std::uint8_t> make_table() {
  std::vector<std::uint8_t> table(end_of_unicode, 0);
  for (utf8proc_int32_t c = 0; c < end_of_unicode; ++c) {
    const utf8proc_property_t* property = utf8proc_get_property(c);
    const auto at = static_cast<std::size_t>(c);
    if (table[at] != suspect) table[at] = static_cast<std::uint8_t>(property->combining_class);
    if (property->decomp_seqindex == UINT16_MAX || property->decomp_type != 0) continue;
    std::array<utf8proc_int32_t, max_decomposition> parts{};
    int boundary = 0;
    const auto length = utf8proc_decompose_char(c, parts.data(), max_decomposition, compose, &boundary);
    NMOE_CHECK(length > 0 && length <= max_decomposition, internal, "U+{:04X} decomposes into {} characters",
               c, length);
    const utf8proc_int32_t last = parts[static_cast<std::size_t>(length - 1)];
    const bool stays = utf8proc_normalize_utf32(parts.data(), length, compose) == 1 && parts[0] == c;
    table[static_cast<std::size_t>(stays ? last : c)] = suspect;
  }
  for (std::size_t jamo = 0x1161; jamo <= 0x1175; ++jamo) table[jamo] = suspect;  // Hangul vowels
  for (std::size_t jamo = 0x11A8; jamo <= 0x11C2; ++jamo) table[jamo] = suspect;  // and finals
  return table;
}

/// Own ordering of combining marks: utf8proc's takes quadratic time in a long run of them.
void append_nfc(std::string_view text, std::string& out) {
  std::vector<utf8proc_int32_t> characters;
  for (std::size_t at = 0; at < text.size();) {
    std::array<utf8proc_int32_t, max_decomposition> parts{};
    int boundary = 0;
    const auto length = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next_code_point(text, at)),
                                                parts.data(), max_decomposition, compose, &boundary);
    characters.insert(characters.end(), parts.begin(), parts.begin() + length);
  }
  const auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto at = characters.begin(); at != characters.end();) {
    const auto is_starter = [&](utf8proc_int32_t c) { return combining_class(c) == 0; };
    const auto end = std::find_if(at, characters.end(), is_starter);
    std::stable_sort(at, end, [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    at = end == characters.end() ? end : end + 1;
  }
  const auto length =
      utf8proc_normalize_utf32(characters.data(), static_cast<utf8proc_ssize_t>(characters.size()), compose);
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    std::array<utf8proc_uint8_t, 4> bytes{};
    const auto count = utf8proc_encode_char(characters[static_cast<std::size_t>(i)], bytes.data());
    out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(count));
  }
}

}  // namespace

std::string_view to_nfc(std::string_view text, std::string& buffer) {
  static const std::vector<std::uint8_t> table = make_table();
  std::size_t copied = 0;    // text before it is in buffer
  std::size_t boundary = 0;  // normal form of what comes before does not depend on what follows
  std::uint8_t previous = 0;
  buffer.clear();
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const std::uint8_t now = table[next_code_point(text, at)];
    if (now == 0) boundary = begin;
    if (now != suspect && (now == 0 || now >= previous)) {
      previous = now;
      continue;
    }
    while (at < text.size()) {  // up to the next character that nothing before it can change
      std::size_t next = at;
      if (table[next_code_point(text, next)] == 0) break;
      at = next;
    }
    buffer += text.substr(copied, boundary - copied);
    append_nfc(text.substr(boundary, at - boundary), buffer);
    copied = boundary = at;
    previous = 0;
  }
  if (copied == 0) return text;
  buffer += text.substr(copied);
  return buffer;
}

}  // namespace nmoe::data

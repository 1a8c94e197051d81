#pragma once
// GPT-2's alphabet: tokenizer.json spells every byte as one printable character. The bytes 33-126,
// 161-172 and 174-255 are themselves, the other 68 are U+0100 + n in byte order.
#include <optional>
#include <string>
#include <string_view>

namespace nmoe::data {

/// UTF-8 of the character that stands for `byte`.
std::string spelling_of_byte(unsigned char byte);
/// The bytes that `spelling` (well-formed UTF-8) stands for; nothing if a character is not of the alphabet.
std::optional<std::string> bytes_of_spelling(std::string_view spelling);

}  // namespace nmoe::data

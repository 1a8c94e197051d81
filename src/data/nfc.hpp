#pragma once
// Unicode normal form C, with a quick check so that text which is already normal costs a table look-up per
// character.
#include <string>
#include <string_view>

namespace nmoe::data {

/// `text` itself if it is in NFC, else its NFC in `buffer`. `text` is well-formed UTF-8.
std::string_view to_nfc(std::string_view text, std::string& buffer);

}  // namespace nmoe::data

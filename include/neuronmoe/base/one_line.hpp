#pragma once
// Text out of a file on its way to a terminal. Used by errors, the log and `inspect`.
#include <string>
#include <string_view>

namespace nmoe {

/// Returns `text` with every control character (line ends, escape codes, U+0080 to U+009F too) as \xNN per
/// byte.
std::string on_one_line(std::string_view text);
/// Returns the same, but line ends and tabs stay.
std::string without_escapes(std::string_view text);

}  // namespace nmoe

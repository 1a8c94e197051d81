#pragma once
// Text out of a file on its way to a terminal. Used by errors and `inspect`.
#include <string>

namespace nmoe {

/// `text` with every control character (line ends, escape codes, U+0080 to U+009F too) as \xNN per byte.
std::string on_one_line(const std::string& text);

}  // namespace nmoe

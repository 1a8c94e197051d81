#pragma once
// Strict reader of config files: section, key, value and the line each came from. Boost's own reader forgets
// line numbers and cuts paths at '#' (PLATFORM 3), so only the command line goes through Boost. schema.hpp
// gives the values their types.
#include <string>
#include <string_view>
#include <vector>

namespace nmoe::app {

/// One `section.key = value` and where it was written: "FILE:LINE" or "command line".
struct Assignment {
  std::string key, value, where;
};

/// Parses INI text. A comment starts with '#' or ';' at the beginning of a line, or with '#' after a blank.
/// @throws Error(config) as "FILE:LINE: ..." for a byte-order mark, control characters, invalid UTF-8, a line
/// that is neither section nor key = value, a key before the first section, an empty value.
std::vector<Assignment> parse_ini(std::string_view text, const std::string& file);

/// Says whether `s` may be a section or a key: letters of any alphabet, digits, '_', '-' and '.'.
bool is_name(std::string_view s);

/// Checks that a value from the command line could stand in a file: printable UTF-8 without a comment sign
/// after a blank. @throws Error(config) naming `where` and `key`.
void check_value(const Assignment& assignment);

}  // namespace nmoe::app

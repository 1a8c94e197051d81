// Config files, strictly: sections, keys, comments and characters.
#include "neuronmoe/app/ini.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "neuronmoe/base/error.hpp"

namespace nmoe::app {
namespace {

std::string_view trim(std::string_view s) {
  const auto first = s.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return s.substr(first, s.find_last_not_of(" \t") - first + 1);
}

/// Length of the valid UTF-8 sequence at the start of `s`, 0 if there is none.
std::size_t utf8_length(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char c = byte(0);
  const std::size_t n = c < 0x80                ? 1
                        : c >= 0xC2 && c < 0xE0 ? 2
                        : c >= 0xE0 && c < 0xF0 ? 3
                        : c >= 0xF0 && c < 0xF5 ? 4
                                                : 0;
  if (n == 0 || s.size() < n) return 0;
  for (std::size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return 0;
  }
  if (c == 0xE0 && byte(1) < 0xA0) return 0;  // overlong
  if (c == 0xED && byte(1) > 0x9F) return 0;  // surrogate
  if (c == 0xF0 && byte(1) < 0x90) return 0;
  if (c == 0xF4 && byte(1) > 0x8F) return 0;
  return n;
}

/// Why `s` may not stand in a config, or an empty string.
std::string text_problem(std::string_view s) {
  for (std::size_t i = 0; i < s.size();) {
    const auto c = static_cast<unsigned char>(s[i]);
    if ((c < 0x20 && c != '\t') || c == 0x7F) return fmt::format("control character 0x{:02x}", c);
    const std::size_t n = utf8_length(s.substr(i));
    if (n == 0) return fmt::format("invalid UTF-8 (byte 0x{:02x} at column {})", c, i + 1);
    i += n;
  }
  return {};
}

/// Position of the '#' that starts a comment after a blank, or npos.
std::size_t comment_start(std::string_view line) {
  for (std::size_t i = 1; i < line.size(); ++i) {
    if (line[i] == '#' && (line[i - 1] == ' ' || line[i - 1] == '\t')) return i;
  }
  return std::string_view::npos;
}

std::string parse_section(std::string_view line, const std::string& where) {
  NMOE_CHECK(line.back() == ']', config, "{}: section '{}' has no closing ']'", where, line);
  const auto name = trim(line.substr(1, line.size() - 2));
  NMOE_CHECK(is_name(name), config, "{}: section name '{}' may only hold letters, digits, '_', '-' and '.'",
             where, name);
  return std::string(name);
}

}  // namespace

bool is_name(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || static_cast<unsigned char>(c) >= 0x80U;
  });
}

std::vector<Assignment> parse_ini(std::string_view text, const std::string& file) {
  NMOE_CHECK(!text.starts_with("\xEF\xBB\xBF"), config,
             "{}:1: the file starts with a byte-order mark; save it as plain UTF-8", file);
  std::vector<Assignment> result;
  std::string section;
  int line_number = 0;
  while (!text.empty()) {
    const auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const std::string where = fmt::format("{}:{}", file, ++line_number);
    const std::string problem = text_problem(line);
    NMOE_CHECK(problem.empty(), config, "{}: {}", where, problem);
    line = trim(line);
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;
    line = trim(line.substr(0, comment_start(line)));
    if (line.front() == '[') {
      section = parse_section(line, where);
      continue;
    }
    const auto equals = line.find('=');
    NMOE_CHECK(equals != std::string_view::npos, config, "{}: '{}' is neither [section] nor key = value",
               where, line);
    const auto key = trim(line.substr(0, equals));
    const auto value = trim(line.substr(equals + 1));
    NMOE_CHECK(is_name(key), config, "{}: key '{}' may only hold letters, digits, '_', '-' and '.'", where,
               key);
    NMOE_CHECK(!section.empty(), config, "{}: key '{}' stands before the first [section]", where, key);
    const std::string full = section + "." + std::string(key);
    NMOE_CHECK(!value.empty(), config, "{}: {} has no value; leave the line out for the default", where,
               full);
    result.push_back({full, std::string(value), where});
  }
  return result;
}

void check_value(const Assignment& a) {
  NMOE_CHECK(!trim(a.value).empty(), config, "{}: {} has no value; leave it out for the default", a.where,
             a.key);
  const std::string problem = text_problem(a.value);
  NMOE_CHECK(problem.empty(), config, "{}: {}: {}", a.where, a.key, problem);
  NMOE_CHECK(
      trim(a.value) == a.value && comment_start(a.value) == std::string::npos && a.value.front() != '#',
      config, "{}: {} = '{}': a value may not begin or end with a blank or hold '#' after one", a.where,
      a.key, a.value);
}

}  // namespace nmoe::app

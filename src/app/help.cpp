// --help from the field list (schema.hpp).
#include <fmt/core.h>

#include <algorithm>

#include "neuronmoe/app/schema.hpp"
#include "value.hpp"

namespace nmoe::app {
namespace {

template <typename T>
std::string field_lines(const std::string& key, const T& member, const FieldInfo& info) {
  constexpr bool number = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;
  constexpr bool list = std::is_same_v<T, std::vector<std::string>>;
  std::string text = fmt::format("  --{:<30} {}", key, info.help);
  std::string range, value;
  if constexpr (Choice<T>) range = list_names(words_of<T>(info), "|");
  if constexpr (number) range = describe_range(info);
  if constexpr (!list) value = format_value(member, info);
  if (!range.empty()) text += fmt::format(" [{}]", range);
  if (!value.empty()) text += fmt::format(" (default {})", value);
  return text + "\n";
}

}  // namespace

std::string help_for_sections(const std::vector<std::string>& sections) {
  std::string text;
  const auto wanted = [&](std::string_view section) {
    return std::find(sections.begin(), sections.end(), section) != sections.end();
  };
  AppConfig defaults;
  std::string current;
  for_each_field(defaults, [&](std::string_view name, const auto& member, const FieldInfo& info) {
    const std::string section(name.substr(0, name.find('.')));
    if (!wanted(section)) return;
    if (section != current) text += fmt::format("\n[{}]\n", section);
    current = section;
    text += field_lines(std::string(name), member, info);
  });
  if (!wanted("data")) return text;
  data::DataSetConfig any;
  text += "\n[data.<name>], one section per data set\n";
  for_each_field(any, [&](std::string_view key, const auto& member, const FieldInfo& info) {
    text += field_lines("data.<name>." + std::string(key), member, info);
  });
  return text;
}

}  // namespace nmoe::app

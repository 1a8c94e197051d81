// The lists of fields as texts.
#include "option_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iterator>

#include "neuronmoe/app/schema.hpp"
#include "value.hpp"

namespace nmoe::app {
namespace {

/// "train.init_from" -> "INIT_FROM".
std::string capitals_of(std::string_view key) {
  std::string word(key.substr(key.rfind('.') + 1));
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::toupper(c); });
  return word;
}

/// The range, whose end is left out if it only keeps numbers exact.
std::string told_range(const FieldInfo& info) {
  constexpr double endless = 1e12;
  if (info.max < endless || !std::isfinite(info.max) || info.min < 0) return describe_range(info);
  return fmt::format("{} or more{}{}", info.min, info.unit.empty() ? "" : " ", info.unit);
}

template <typename T>
OptionText option_text(const std::string& key, const T& member, const FieldInfo& info) {
  constexpr bool number = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;
  constexpr bool list = std::is_same_v<T, std::vector<std::string>>;
  OptionText option;
  option.key = key;
  option.section = key.substr(0, key.rfind('.'));
  option.help = info.help;
  const std::string brief = short_form(key);
  if (brief != key) option.short_name = brief;
  option.repeatable = list;
  if constexpr (number) option.range = told_range(info);
  if constexpr (number) option.value = std::is_integral_v<T> ? "N" : "X";
  if constexpr (Choice<T>) option.choices = words_of<T>(info);
  if constexpr (!number && !std::is_same_v<T, bool>) option.value = capitals_of(key);
  if constexpr (!list) option.default_value = format_value(member, info);
  if constexpr (std::is_same_v<T, bool>) option.default_value = member ? "true" : "";
  return option;
}

}  // namespace

std::vector<OptionText> all_options() {
  std::vector<OptionText> options;
  AppConfig defaults;
  for_each_field(defaults, [&](std::string_view name, const auto& member, const FieldInfo& info) {
    options.push_back(option_text(std::string(name), member, info));
  });
  data::DataSetConfig any;
  for_each_field(any, [&](std::string_view key, const auto& member, const FieldInfo& info) {
    options.push_back(option_text("data.<name>." + std::string(key), member, info));
  });
  return options;
}

std::vector<OptionText> options_of(const Command& command) {
  const std::vector<OptionText> all = all_options();
  std::vector<OptionText> read;
  std::copy_if(all.begin(), all.end(), std::back_inserter(read),
               [&](const OptionText& option) { return reads_key(command, option.key); });
  return read;
}

std::string as_typed(const OptionText& option) {
  return fmt::format("--{}{}{}", option.short_name.empty() ? option.key : option.short_name,
                     option.value.empty() ? "" : " ", option.value);
}

std::string described(const OptionText& option) {
  const std::string choices = list_names(option.choices, "|");
  std::string text = option.help;
  for (const std::string& range : {option.range, choices})
    if (!range.empty()) text += fmt::format(" [{}]", range);
  if (!option.default_value.empty()) text += fmt::format(" (default {})", option.default_value);
  return text;
}

}  // namespace nmoe::app

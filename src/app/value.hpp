#pragma once
// Text to typed value and back, one overload per type a field may have; enums with names once for all. Used
// by schema.cpp, help.cpp and commands that list their options.
#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "neuronmoe/base/enum_names.hpp"
#include "neuronmoe/base/fields.hpp"

namespace nmoe::app {

/// The enum E that a field of type E or std::optional<E> chooses from; void for other fields.
template <typename T>
struct ChoiceOf {
  using type = void;
};
template <NamedEnum E>
struct ChoiceOf<E> {
  using type = E;
};
template <NamedEnum E>
struct ChoiceOf<std::optional<E>> {
  using type = E;
};
template <typename T>
concept Choice = !std::is_void_v<typename ChoiceOf<T>::type>;

/// Words that a field of type T may have; the one for "left open" comes first.
template <Choice T>
std::vector<std::string_view> words_of(const FieldInfo& info) {
  using E = typename ChoiceOf<T>::type;
  std::vector<std::string_view> words;
  if (!info.unset.empty()) words.push_back(info.unset);
  const std::span<const std::string_view> names =
      info.choices.empty() ? std::span<const std::string_view>(all_names<E>) : info.choices;
  words.insert(words.end(), names.begin(), names.end());
  return words;
}

/// Each returns why `text` cannot be the value, or an empty string after `value` was set. Nothing is guessed:
/// a sign on an unsigned field, nan, inf, a trailing letter and an out-of-range number are all refused.
std::string parse_value(const std::string& text, const FieldInfo& info, bool& value);
std::string parse_value(const std::string& text, const FieldInfo& info, int& value);
std::string parse_value(const std::string& text, const FieldInfo& info, std::int64_t& value);
std::string parse_value(const std::string& text, const FieldInfo& info, std::uint64_t& value);
std::string parse_value(const std::string& text, const FieldInfo& info, double& value);
std::string parse_value(const std::string& text, const FieldInfo& info, std::string& value);
template <Choice T>
std::string parse_value(const std::string& text, const FieldInfo& info, T& value) {
  const std::vector<std::string_view> words = words_of<T>(info);
  if (std::find(words.begin(), words.end(), text) == words.end())
    return fmt::format("must be one of {}", list_names(words, "|"));
  const auto found = find_enum<typename ChoiceOf<T>::type>(text);
  if constexpr (NamedEnum<T>)
    value = found.value();
  else
    value = found;  // nothing for the word that leaves it open
  return {};
}

/// The shortest text that gives the value again; "" for what is not set.
std::string format_value(bool value, const FieldInfo& info);
std::string format_value(int value, const FieldInfo& info);
std::string format_value(std::int64_t value, const FieldInfo& info);
std::string format_value(std::uint64_t value, const FieldInfo& info);
std::string format_value(double value, const FieldInfo& info);
std::string format_value(const std::string& value, const FieldInfo& info);
template <NamedEnum E>
std::string format_value(E value, const FieldInfo&) {
  return std::string(name_of(value));
}
template <NamedEnum E>
std::string format_value(std::optional<E> value, const FieldInfo& info) {
  return std::string(value ? name_of(*value) : info.unset);
}

/// "1..2 ranks", "tokens"; empty if there is nothing to say.
std::string describe_range(const FieldInfo& info);

}  // namespace nmoe::app

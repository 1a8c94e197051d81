#pragma once
// Enums as data. An enum whose names stand in configs, files or messages spells them once, beside its
// declaration:
//   enum class Fruit { apple, pear };
//   constexpr auto enum_names(Fruit) {
//     return std::to_array<EnumName<Fruit>>({{Fruit::apple, "apple"}, {Fruit::pear, "pear"}});
//   }
// Everything that parses, prints or lists them comes from here; a config field holds the enum itself
// (fields.hpp). Every layer uses it.
#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace nmoe {

enum class ErrorCode : int;  // error.hpp, whose codes have names too

/// One enumerator and how it is spelled. `enum_names` may return rows of another type with these two members
/// and more.
template <typename E>
struct EnumName {
  E value;
  std::string_view name;
};

template <typename E>
concept NamedEnum = requires(E value) {
  enum_names(value);
};

/// The rows of an enum in the order in which its names are listed.
template <NamedEnum E>
inline constexpr auto enum_table = enum_names(E{});

/// Returns the name of an enumerator, "?" for a value that has none.
template <NamedEnum E>
constexpr std::string_view name_of(E value) {
  for (const auto& row : enum_table<E>) {
    if (row.value == value) return row.name;
  }
  return "?";
}

/// Returns the enumerator of that name, nothing if there is none.
template <NamedEnum E>
constexpr std::optional<E> find_enum(std::string_view name) {
  for (const auto& row : enum_table<E>) {
    if (row.name == name) return row.value;
  }
  return std::nullopt;
}

/// Names of some enumerators, for what takes only those.
template <auto... values>
inline constexpr std::array<std::string_view, sizeof...(values)> names_among = {name_of(values)...};

/// Names of all enumerators.
template <NamedEnum E>
inline constexpr auto all_names = [] {
  std::array<std::string_view, enum_table<E>.size()> names;
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = enum_table<E>[i].name;
  return names;
}();

/// Joins names: "a|b|c" with "|", "a, b or c" with ", " and " or " before the last.
std::string list_names(std::span<const std::string_view> names, std::string_view between,
                       std::string_view before_last);
inline std::string list_names(std::span<const std::string_view> names, std::string_view between) {
  return list_names(names, between, between);
}

/// Throws Error(code) "WHAT is "TEXT"; it may be a, b or c".
[[noreturn]] void fail_unknown_name(ErrorCode code, std::string_view what, std::string_view text,
                                    std::span<const std::string_view> names);

/// Returns the enumerator of that name. @throws Error(code) as fail_unknown_name
template <NamedEnum E>
E parse_enum(std::string_view text, ErrorCode code, std::string_view what) {
  const std::optional<E> found = find_enum<E>(text);
  if (!found) fail_unknown_name(code, what, text, all_names<E>);
  return *found;
}

}  // namespace nmoe

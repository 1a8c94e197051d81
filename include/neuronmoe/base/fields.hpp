#pragma once
// What a configuration field is, besides its value. Every config struct offers
//   template <class F> void for_each_field(TheConfig& c, F&& f) { f("section.key", c.member, FieldInfo{...});
//   }
// and app builds Boost.Program_options, --help, --print-config and file attributes from that one list.
#include <limits>
#include <span>
#include <string_view>

namespace nmoe {

/// Unit, allowed range and one-line help of a field. Ranges hold for numbers only and are inclusive. A field
/// with named choices is an enum with names (enum_names.hpp), or an optional one that may be left open.
struct FieldInfo {
  std::string_view help;
  std::string_view unit = "";
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::span<const std::string_view> choices = {};  ///< of an enum, if not all of its names
  std::string_view unset = "";  ///< how an optional enum without value is written; "" = not at all
  bool layout = false;          ///< describes where, not what: left out of files that must not depend on it
};

}  // namespace nmoe

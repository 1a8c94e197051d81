#pragma once
// What a configuration field is, besides its value. Every config struct offers
//   template <class F> void for_each_field(TheConfig& c, F&& f) { f("section.key", c.member, FieldInfo{...});
//   }
// and app builds Boost.Program_options, --help, --print-config and file attributes from that one list.
#include <limits>
#include <string>
#include <string_view>

namespace nmoe {

/// Unit, allowed range and one-line help of a field. Ranges hold for numbers only and are inclusive.
struct FieldInfo {
  std::string_view help;
  std::string_view unit = "";
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::string_view choices = "";  ///< "a|b|c" for enumerated strings
  bool layout = false;            ///< describes where, not what: left out of files that must not depend on it
};

}  // namespace nmoe

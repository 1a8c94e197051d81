// The parts of enum_names.hpp that are the same for every enum.
#include "neuronmoe/base/enum_names.hpp"

#include "neuronmoe/base/error.hpp"

namespace nmoe {

std::string list_names(std::span<const std::string_view> names, std::string_view between,
                       std::string_view before_last) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 < names.size() ? between : before_last;
    text += names[i];
  }
  return text;
}

void fail_unknown_name(ErrorCode code, std::string_view what, std::string_view text,
                       std::span<const std::string_view> names) {
  throw_error(code, __FILE__, __LINE__, "a known name",
              fmt::format("{} is \"{}\"; it may be {}", what, text, list_names(names, ", ", " or ")));
}

}  // namespace nmoe

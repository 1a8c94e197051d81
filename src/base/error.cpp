#include "neuronmoe/base/error.hpp"

#include <string_view>

namespace nmoe {

void throw_error(ErrorCode code, const char* file, int line, const char* expression,
                 const std::string& message) {
  // Bad input and bad options are the user's to mend: one clear line. Anything else is ours: add the place.
  if (code == ErrorCode::bad_data || code == ErrorCode::config || code == ErrorCode::no_space) {
    throw Error(code, message);
  }
  std::string_view path(file);
  const auto pos = path.find("src/");
  if (pos != std::string_view::npos) path.remove_prefix(pos);
  throw Error(code, fmt::format("{} [{}:{}: {}]", message, path, line, expression));
}

}  // namespace nmoe

// What an Error says: on one line, with the source position if our own code is at fault.
#include "neuronmoe/base/error.hpp"

#include <string_view>

namespace nmoe {
namespace {

/// Names and keys out of a file may hold line ends and escape codes; a message stays one line.
std::string on_one_line(const std::string& message) {
  std::string line;
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20U || byte == 0x7FU)
      line += fmt::format("\\x{:02x}", byte);
    else
      line += c;
  }
  return line;
}

}  // namespace

void throw_error(ErrorCode code, const char* file, int line, const char* expression,
                 const std::string& message) {
  // Bad input and bad options are the user's to mend: one clear line. Anything else is ours: add the place.
  if (code == ErrorCode::bad_data || code == ErrorCode::config || code == ErrorCode::no_space) {
    throw Error(code, on_one_line(message));
  }
  std::string_view path(file);
  const auto pos = path.find("src/");
  if (pos != std::string_view::npos) path.remove_prefix(pos);
  throw Error(code, fmt::format("{} [{}:{}: {}]", message, path, line, expression));
}

}  // namespace nmoe

// What an Error says: on one line, with the source position if our own code is at fault.
#include "neuronmoe/base/error.hpp"

#include <string_view>

#include "neuronmoe/base/one_line.hpp"

namespace nmoe {

namespace {

std::string escaped(std::string_view text, std::string_view allowed) {
  std::string line;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte_at = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned char byte = byte_at(i);
    const bool later_control = byte == 0xC2U && i + 1 < text.size() && byte_at(i + 1) >= 0x80U &&
                               byte_at(i + 1) < 0xA0U;  // U+0080 to U+009F in UTF-8
    if ((byte < 0x20U || byte == 0x7FU) && allowed.find(text[i]) == std::string_view::npos)
      line += fmt::format("\\x{:02x}", byte);
    else if (later_control)
      line += fmt::format("\\x{:02x}\\x{:02x}", byte, byte_at(++i));
    else
      line += text[i];
  }
  return line;
}

}  // namespace

std::string on_one_line(std::string_view text) {
  return escaped(text, "");
}

std::string without_escapes(std::string_view text) {
  return escaped(text, "\n\t");
}

void throw_error(ErrorCode code, const char* file, int line, const char* expression,
                 const std::string& message) {
  // Bad input and bad options are what the user can fix: one clear line. Anything else is a fault of ours:
  // add the place.
  if (code == ErrorCode::bad_data || code == ErrorCode::config || code == ErrorCode::no_space) {
    throw Error(code, on_one_line(message));
  }
  std::string_view path(file);
  const auto pos = path.find("src/");
  if (pos != std::string_view::npos) path.remove_prefix(pos);
  throw Error(code, fmt::format("{} [{}:{}: {}]", message, path, line, expression));
}

}  // namespace nmoe

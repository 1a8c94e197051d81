// Printing that notices when nobody gets to read it.
#include "standard_output.hpp"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "launcher.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::app {
namespace {

/// Of the terminal that `file` is; 0 if it is none. mpirun gives its processes a terminal of its own,
/// whatever it writes to itself.
int columns_of(int file) {
  winsize size{};
  if (isatty(file) == 0 || !terminal_is_able() || launcher() != Launcher::none) return 0;
  return ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string_view code_of(Accent accent) {
  switch (accent) {
    case Accent::good:
      return "32";
    case Accent::doubtful:
      return "33";
    case Accent::bad:
      return "1;31";
    case Accent::heading:
      return "1";
  }
  return "";
}

}  // namespace

int text_width() {
  constexpr int narrowest = 60, widest = 100;
  const int columns = columns_of(STDOUT_FILENO);
  return columns == 0 ? widest : std::clamp(columns, narrowest, widest);
}

Terminal error_terminal() {
  const int columns = columns_of(STDERR_FILENO);
  return {columns, columns > 0 && wants_colors()};
}

std::string accented(std::string_view text, Accent accent, bool on_stderr) {
  if (columns_of(on_stderr ? STDERR_FILENO : STDOUT_FILENO) == 0 || !wants_colors()) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", code_of(accent), text);
}

void print(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return;
  const int reason = errno;
  throw Error(reason == ENOSPC || reason == EDQUOT ? ErrorCode::no_space : ErrorCode::io,
              fmt::format("cannot write to the standard output: {}", std::strerror(reason)));
}

}  // namespace nmoe::app

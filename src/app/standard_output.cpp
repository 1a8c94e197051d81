// Printing that notices when nobody gets to read it.
#include "standard_output.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "neuronmoe/base/error.hpp"

namespace nmoe::app {

void print(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return;
  const int reason = errno;
  throw Error(reason == ENOSPC || reason == EDQUOT ? ErrorCode::no_space : ErrorCode::io,
              fmt::format("cannot write to the standard output: {}", std::strerror(reason)));
}

}  // namespace nmoe::app

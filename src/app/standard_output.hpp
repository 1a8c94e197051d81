#pragma once
// What a command prints for its user, for all that print.
#include <string_view>

namespace nmoe::app {

/// Writes `text` to the standard output and flushes it. Not collective: rank 0 calls it.
/// @throws Error(io|no_space) if not all of it arrived
void print(std::string_view text);

}  // namespace nmoe::app

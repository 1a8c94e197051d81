#pragma once
// What a command prints for its user, for all that print, and what the terminal can show of it.
#include <string>
#include <string_view>

#include "neuronmoe/base/log.hpp"

namespace nmoe::app {

/// Writes `text` to the standard output and flushes it. Not collective: rank 0 calls it.
/// @throws Error(io|no_space) if not all of it arrived
void print(std::string_view text);

/// Columns for a text on the standard output: those of its terminal, between 60 and 100; 100 without one.
int text_width();

/// What the terminal on stderr can do; nothing if there is none.
Terminal error_terminal();

/// How a word stands out on a terminal.
enum class Accent { good, doubtful, bad, heading };
/// Returns `text` in that color if the standard output (`on_stderr`: stderr) is a terminal that takes colors,
/// else as it is.
std::string accented(std::string_view text, Accent accent, bool on_stderr = false);

}  // namespace nmoe::app

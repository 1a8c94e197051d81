#pragma once
// What --help, `neuronmoe man` and `neuronmoe completions` print, all from the table of commands and the
// lists of fields. main.cpp asks for them before MPI starts.
#include <string>
#include <string_view>
#include <vector>

#include "commands.hpp"

namespace nmoe::app {

/// Longest line of help where no terminal says how wide it is.
inline constexpr int help_width = 100;

/// Returns the help of the program, no line longer than `width` unless a word is.
std::string overall_help(int width = help_width);
/// Returns the help of a command: usage, example, what it needs, the keys it reads by section.
std::string command_help(const Command& command, int width = help_width);
/// Returns what a key or short name is and which commands read it. @throws Error(config) with the nearest key
std::string key_help(const std::string& name, int width = help_width);
/// Returns "neuronmoe NAME --model MODEL ... [OPTION ...]", what a command needs spelled out.
std::string usage_of(const Command& command);

/// A word that has help and is no command of the table: it answers about the program and needs no MPI.
struct Question {
  std::string name, arguments, summary;
};
const std::vector<Question>& questions();
std::string usage_of(const Question& question);

/// Returns the manual page, in roff.
std::string man_page();
/// Returns the completion script of a shell. @throws Error(config) for one that is not known
std::string completions(const std::string& shell);

}  // namespace nmoe::app

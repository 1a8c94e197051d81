#pragma once
// Every key as --help, the man page and the completions show it, from the lists of fields.
#include <string>
#include <string_view>
#include <vector>

#include "commands.hpp"

namespace nmoe::app {

/// One key. A key of the [data.<name>] sections has "<name>" in it.
struct OptionText {
  std::string key, section;
  std::string short_name;  ///< "" for none
  std::string value;  ///< what stands for its value: a word in capitals; "" for one that is true or false
  std::string help;
  std::string range;          ///< of a number, with its unit: "1..8 nodes"; "" for none
  std::string default_value;  ///< "" for none
  std::vector<std::string_view> choices;
  bool repeatable = false;
};

/// Returns the options in the order of the lists of fields, those of the data sets last.
std::vector<OptionText> all_options();
/// Returns those that a command needs or reads.
std::vector<OptionText> options_of(const Command& command);

/// "--model MODEL", the short name if there is one.
std::string as_typed(const OptionText& option);
/// "the help [range|choices] (default x)".
std::string described(const OptionText& option);

}  // namespace nmoe::app

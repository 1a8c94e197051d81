#pragma once
// The command line and the config files behind it: `neuronmoe COMMAND [--config FILE ...] [--section.key
// VALUE
// ...]`. main.cpp parses it on every rank; the files are read by rank 0 and broadcast.
#include <string>
#include <vector>

#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::app {

struct CommandLine {
  std::string command;  ///< empty if there is none
  bool help = false, version = false, print_config = false;
  std::vector<std::string> files;       ///< --config, in order
  std::vector<Assignment> assignments;  ///< --section.key value, in order; `where` is "command line"
};

/// Splits the arguments after the program's name. Nothing is guessed: no abbreviations, no stray words, no
/// option without a value. The command itself is checked by the caller.
/// @throws Error(config) naming the option and the nearest known one.
CommandLine parse_command_line(const std::vector<std::string>& arguments);

/// Reads the files (rank 0, broadcast) and makes the config; later files win over earlier ones and the
/// command line over all. @throws Error(config|bad_data) on every rank alike. Collective.
AppConfig load_config(comm::Communicator& world, const CommandLine& line);

}  // namespace nmoe::app

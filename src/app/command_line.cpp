// The command line through Boost.Program_options, and the config files that it names.
#include "neuronmoe/app/command_line.hpp"

#include <boost/program_options.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "commands.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"

namespace nmoe::app {
namespace {

namespace po = boost::program_options;

constexpr const char* command_line_place = "command line";

/// Name of a long option without dashes and "=value".
std::string option_name(const std::string& argument) {
  return argument.starts_with("--") ? argument.substr(2, argument.find('=') - 2) : std::string();
}

po::options_description describe_options(const std::vector<std::string>& arguments) {
  po::options_description options;
  options.add_options()("help", "")("version", "")("print-config", "");
  options.add_options()("config", po::value<std::vector<std::string>>()->composing(), "");
  std::set<std::string> names;
  for (const auto& key : all_keys()) names.insert(key);
  for (const auto& argument : arguments) {  // the names of data sets are the user's own
    if (is_data_key(option_name(argument))) names.insert(option_name(argument));
  }
  for (const auto& name : names) {
    options.add_options()(name.c_str(), po::value<std::vector<std::string>>()->composing(), "");
  }
  return options;
}

[[noreturn]] void fail_unknown_option(const std::string& option) {
  std::string name = option.substr(std::min(option.find_first_not_of('-'), option.size()));
  name = name.substr(0, name.find('='));
  throw Error(ErrorCode::config, fmt::format("command line: unknown option '{}'; did you mean '--{}'?",
                                             option, nearest_key(name)));
}

std::string read_file(const std::string& path) {
  NMOE_CHECK(!std::filesystem::is_directory(path), config, "--config {}: is a directory", path);
  NMOE_CHECK(!std::filesystem::is_other(path), config,
             "--config {}: pipes and devices are not read; write the config to a file", path);
  std::ifstream in(path, std::ios::binary);
  NMOE_CHECK(in.good(), config, "--config {}: cannot be read ({})", path, std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& arguments) {
  CommandLine line;
  std::vector<std::string> rest = arguments;
  if (!rest.empty() && !rest.front().starts_with("-")) {
    line.command = rest.front();
    rest.erase(rest.begin());
  }
  const Command* command = find_command(line.command);
  const std::vector<std::string> sections =
      command == nullptr ? std::vector<std::string>() : sections_of(*command);
  for (std::size_t i = 0; i < rest.size(); ++i) {
    const bool bare =
        rest[i].find('=') == std::string::npos && (i + 1 == rest.size() || rest[i + 1].starts_with("--"));
    if (bare && is_flag(option_name(rest[i]), sections)) rest[i] += "=true";
  }
  const po::options_description options = describe_options(rest);
  namespace style = po::command_line_style;
  po::parsed_options parsed(&options);
  try {
    parsed = po::command_line_parser(rest)
                 .options(options)
                 .positional({})
                 .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
                 .run();
  } catch (const po::unknown_option& error) {
    fail_unknown_option(error.get_option_name());
  } catch (const po::too_many_positional_options_error&) {
    std::string stray;  // Boost does not say which word it is
    for (std::size_t i = 0; i < rest.size() && stray.empty(); ++i) {
      const bool after_flag = i == 0 || !rest[i - 1].starts_with("--") ||
                              rest[i - 1].find('=') != std::string::npos || rest[i - 1] == "--help" ||
                              rest[i - 1] == "--version" || rest[i - 1] == "--print-config";
      if (!rest[i].starts_with("--") && after_flag) stray = rest[i];
    }
    throw Error(
        ErrorCode::config,
        fmt::format("command line: stray argument '{}'; options look like --section.key value", stray));
  } catch (const po::error& error) {
    throw Error(ErrorCode::config, fmt::format("command line: {}", error.what()));
  }
  for (const auto& option : parsed.options) {
    const std::string& name = option.string_key;
    if (name == "help" || name == "version" || name == "print-config") {
      (name == "help" ? line.help : name == "version" ? line.version : line.print_config) = true;
      continue;
    }
    for (const auto& value : option.value) {
      if (name == "config") {
        line.files.push_back(value);
      } else {
        NMOE_CHECK(is_name(name), config,
                   "command line: --{}: a name may only hold letters, digits, '_', '-' and '.'", name);
        line.assignments.push_back({full_key(name, sections), value, command_line_place});
        check_value(line.assignments.back());
      }
    }
  }
  return line;
}

AppConfig load_config(comm::Communicator& world, const CommandLine& line) {
  std::vector<std::vector<Assignment>> sources;
  for (const auto& file : line.files) {
    std::string text;
    comm::agree(world, [&] {
      if (world.rank() == 0) text = read_file(file);
    });
    sources.push_back(parse_ini(comm::broadcast_string(world, text), file));  // same text: same error on all
  }
  sources.push_back(line.assignments);
  return make_config(sources);
}

}  // namespace nmoe::app

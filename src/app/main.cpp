// neuronmoe COMMAND [--config FILE ...] [--section.key VALUE ...]: finds the command and runs it under the
// guard.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "commands.hpp"
#include "exit_file.hpp"
#include "model_setup.hpp"
#include "neuronmoe/app/command_line.hpp"
#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "output_claim.hpp"
#include "standard_output.hpp"
#include "trial_read.hpp"

namespace {

using namespace nmoe;

std::string overall_help() {
  std::string text =
      "neuronmoe: from a dense decoder to a measured multilingual mixture of experts\n\n"
      "usage: [mpirun -n N] neuronmoe COMMAND [--config FILE.cfg ...] [--section.key VALUE ...]\n\n";
  for (const auto& command : app::commands())
    text += fmt::format("  {:<13} {}\n", command.name, command.summary);
  text +=
      "\n  COMMAND --help      the keys a command reads, with defaults, units and ranges\n"
      "  --print-config      the whole resolved config as INI, which gives the same run again\n"
      "  --version\n\n"
      "A key is `key = value` under [section] in a file and "
      "--section.key VALUE on the command line; later files win\n"
      "over earlier ones, the command line over all.\n\nShort names (one "
      "with several keys means that in a section which the command reads):\n";
  for (const auto& s : app::short_names()) text += fmt::format("  --{:<12} --{}\n", s.name, s.key);
  text += "\nExit codes:\n  0   done\n";
  for (const auto& row : enum_table<ErrorCode>)
    text += fmt::format("  {:<3} {}\n", row.exit_code, row.meaning);
  return text;
}

std::string command_help(const app::Command& command) {
  return fmt::format("neuronmoe {}: {}\n", command.name, command.summary) +
         app::help_for_sections(command.sections);
}

std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto* command = arguments.empty() ? nullptr : app::find_command(arguments.front());
  if (command != nullptr && command->takes_file && arguments.size() > 1 && !arguments[1].starts_with("-")) {
    arguments.insert(arguments.begin() + 1, "--run.input");
  }
  return arguments;
}

bool asks_for(const std::vector<std::string>& arguments, const char* word) {
  return std::find(arguments.begin(), arguments.end(), word) != arguments.end();
}

const app::Command& require_command(const app::CommandLine& line) {
  std::string names;
  for (const auto& command : app::commands()) names += " " + command.name;
  NMOE_CHECK(!line.command.empty(), config, "command line: no command given; one of:{} (or --help)", names);
  const auto* command = app::find_command(line.command);
  NMOE_CHECK(command != nullptr, config, "command line: unknown command '{}'; one of:{}", line.command,
             names);
  return *command;
}

app::GuardOptions guard_options(const app::AppConfig& config, comm::OnNodeChoice on_node,
                                const app::Command& command) {
  const app::RunConfig& run = config.run;
  return {.device = run.device,
          .computes = command.computes,
          .threads = run.threads,
          .watchdog_s = run.watchdog_s,
          .check_collectives = run.check_collectives,
          .quiet = run.quiet,
          .on_node = std::move(on_node),
          .gpu_transport = config.comm.gpu_transport,
          .share_gpu = config.comm.share_gpu,
          .saves_on_signal = command.saves_on_signal,
          .exit_file = command.output == app::OutputKind::run && !run.output.empty()
                           ? fmt::format("{}/{}", run.output, app::exit_file_name)
                           : ""};
}

/// How long the start of MPI may take, which is before a config can be read: --run.watchdog_s, if it is
/// given.
double start_timeout_s(const std::vector<std::string>& arguments) {
  constexpr std::string_view key = "--run.watchdog_s";
  double seconds = app::GuardOptions{}.watchdog_s;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string_view text = arguments[i];
    if (text == key && i + 1 < arguments.size())
      text = arguments[i + 1];
    else if (text.starts_with(key) && text.substr(key.size()).starts_with('='))
      text.remove_prefix(key.size() + 1);
    else
      continue;
    const std::string number(text);
    char* end = nullptr;
    const double value =
        std::strtod(number.c_str(), &end);  // what is wrong with it is said when it is parsed
    if (end != number.c_str() && std::isfinite(value) && value >= 0) seconds = value;
  }
  return seconds;
}

/// What is asked for by words alone; needs no MPI.
std::string answer_to(const std::vector<std::string>& arguments, bool help) {
  if (!help) return fmt::format("neuronmoe {}\n", app::version());
  const auto* command = arguments.empty() ? nullptr : app::find_command(arguments.front());
  return command != nullptr ? command_help(*command) : overall_help();
}

/// Prints under a launcher only in the first process. Returns the exit code.
int speak(const std::string& text, int code) {
  try {
    if (app::launcher_rank() == 0) app::print(text);
    return code;
  } catch (const Error& error) {
    fmt::print(stderr, "neuronmoe: error: {}\n", error.what());
    return exit_code(error.code());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && argv[1] == app::trial_option) return app::run_trial({argv + 2, argv + argc});
  const std::vector<std::string> arguments = arguments_of(argc, argv);
  const bool help = arguments.empty() || asks_for(arguments, "--help") || asks_for(arguments, "-h");
  if (help || asks_for(arguments, "--version"))
    return speak(answer_to(arguments, help), arguments.empty() ? exit_code(ErrorCode::config) : 0);

  app::AppConfig config;
  const app::Command* command = nullptr;
  bool print_config = false;
  std::optional<comm::OnNode> on_node_given;
  const auto configure = [&](comm::Communicator& world) {
    const app::CommandLine line = app::parse_command_line(arguments);
    command = &require_command(line);
    print_config = line.print_config;
    config = app::load_config(world, line);
    on_node_given = config.comm.on_node;
    comm::OnNodeChoice on_node = comm::choose_on_node(world, config.comm.on_node);
    config.comm.on_node = on_node.on_node;
    return guard_options(config, std::move(on_node), *command);
  };
  const auto body = [&](comm::ExecutionContext& context) {
    if (!print_config) {
      const app::OutputClaim claim(context, command->output, config.run.output);
      app::verify_model(context, config.run.model);
      return command->function(context, config);
    }
    config.comm.on_node = on_node_given;  // what it became here may be wrong on other ranks
    comm::agree(context.world, [&] {
      if (context.world.rank() != 0) return;
      app::print(fmt::format("# neuronmoe {} {}\n", app::version(), command->name) +
                 app::config_to_ini(config, true));
    });
    return 0;
  };
  return app::run_guarded(&argc, &argv, start_timeout_s(arguments), configure, body);
}

// neuronmoe COMMAND [--config FILE ...] [--section.key VALUE ...]: finds the command and runs it under the
// guard.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "build_facts.hpp"
#include "commands.hpp"
#include "exit_file.hpp"
#include "help.hpp"
#include "model_setup.hpp"
#include "nccl_log.hpp"
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

/// The help that `COMMAND --help`, `help COMMAND`, `--help COMMAND` or `help` asks for.
std::string help_on(const std::vector<std::string>& arguments, int width) {
  const bool after = arguments.front() == "help" || arguments.front().starts_with("-");
  const std::string about = !after ? arguments.front() : arguments.size() > 1 ? arguments[1] : "";
  for (const auto& question : app::questions()) {
    if (question.name == about)
      return fmt::format("usage:\n  {}\n\n{}\n", app::usage_of(question), question.summary);
  }
  NMOE_CHECK(arguments.front() != "help" || arguments.size() < 3, config,
             "command line: stray argument '{}'; it is neuronmoe help COMMAND or KEY", arguments[2]);
  if (about.empty() || about.starts_with("-")) return app::overall_help(width);
  const std::vector<std::string> keys = app::all_keys();
  const bool is_key =
      about.find('.') != std::string::npos ||
      (app::find_command(about) == nullptr && std::find(keys.begin(), keys.end(), about) != keys.end());
  return is_key ? app::key_help(about, width) : app::command_help(app::require_command(about), width);
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

/// What the command line asks about the program, which needs no MPI: a text to print, nothing if it is a
/// command to run. @throws Error(config) for a word that is not known
std::optional<std::string> answer_to(const std::vector<std::string>& arguments) {
  const int width = app::text_width();
  const bool help = asks_for(arguments, "--help") || asks_for(arguments, "-h");
  const std::string first = arguments.empty() ? "" : arguments.front();
  const auto question = std::find_if(app::questions().begin(), app::questions().end(),
                                     [&](const auto& q) { return q.name == first; });
  if (help || first == "help" || first == "--help") return help_on(arguments, width);
  if (asks_for(arguments, "--version") || asks_for(arguments, "-V") || first == "version")
    return app::version_text();
  if (question == app::questions().end()) return std::nullopt;
  const std::size_t wanted = question->arguments.empty() ? 1 : 2;
  NMOE_CHECK(arguments.size() == wanted, config, "command line: it is {}", app::usage_of(*question));
  return first == "man" ? app::man_page() : app::completions(arguments[1]);
}

/// Prints under a launcher only in the first process. Returns the exit code.
int speak(const std::string& text, int code) {
  if (app::launcher_rank() == 0) app::print(text);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && argv[1] == app::trial_option) return app::run_trial({argv + 2, argv + argc});
  const std::vector<std::string> arguments = arguments_of(argc, argv);
  try {
    if (arguments.empty()) return speak(app::overall_help(app::text_width()), exit_code(ErrorCode::config));
    if (const auto answer = answer_to(arguments)) return speak(*answer, 0);
  } catch (const Error& error) {
    if (app::launcher_rank() == 0) fmt::print(stderr, "neuronmoe: error: {}\n", error.what());
    return exit_code(error.code());
  }

  app::AppConfig config;
  const app::Command* command = nullptr;
  bool print_config = false;
  std::optional<comm::OnNode> on_node_given;
  const auto configure = [&](comm::Communicator& world) {
    if (!arguments.front().starts_with("-")) app::require_command(arguments.front());  // before its options
    const app::CommandLine line = app::parse_command_line(arguments);
    command = &app::require_command(line.command);
    print_config = line.print_config;
    config = app::load_config(world, line);
    if (!print_config) app::require_needs(*command, config);
    if (command->reads_nccl_log) app::keep_nccl_log();
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

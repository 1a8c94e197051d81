#pragma once
// The subcommands: one function per file command_<name>.cpp, and the table that main.cpp looks them up in.
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/app/config.hpp"
#include "neuronmoe/comm/execution_context.hpp"

namespace nmoe::app {

/// Runs a command on every rank; returns the exit code (0, or 85 after saving on a signal). Collective.
using CommandFunction = int (*)(comm::ExecutionContext& context, const AppConfig& config);

/// What a command makes of --output: nothing, a file or a directory that appears whole, or a run directory
/// that it fills step by step.
enum class OutputKind { none, file, directory, run };

struct Command {
  std::string name, summary;
  std::vector<std::string> sections;  ///< of the config that it reads, for its --help
  CommandFunction function;
  OutputKind output = OutputKind::none;
  bool computes = false;  ///< runs on a GPU where there is one; the others take one only if told to
  bool saves_on_signal = false;
  bool takes_file =
      false;  ///< `inspect FILE`, `convert DIR`: one word that is not an option, put into run.input
};

int run_tokenize(comm::ExecutionContext& context, const AppConfig& config);
int run_pretrain(comm::ExecutionContext& context, const AppConfig& config);
int run_analyze(comm::ExecutionContext& context, const AppConfig& config);
int run_score(comm::ExecutionContext& context, const AppConfig& config);
int run_allocate(comm::ExecutionContext& context, const AppConfig& config);
int run_train(comm::ExecutionContext& context, const AppConfig& config);
int run_specialize(comm::ExecutionContext& context, const AppConfig& config);
int run_evaluate(comm::ExecutionContext& context, const AppConfig& config);
int run_loglikelihood(comm::ExecutionContext& context, const AppConfig& config);
int run_generate(comm::ExecutionContext& context, const AppConfig& config);
int run_convert(comm::ExecutionContext& context, const AppConfig& config);
int run_check(comm::ExecutionContext& context, const AppConfig& config);
int run_plan(comm::ExecutionContext& context, const AppConfig& config);
int run_inspect(comm::ExecutionContext& context, const AppConfig& config);

const std::vector<Command>& commands();
/// Returns the command of that name, nullptr if there is none.
const Command* find_command(std::string_view name);

}  // namespace nmoe::app

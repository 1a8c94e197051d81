#pragma once
// The subcommands: one function per file command_<name>.cpp, and the table that main.cpp, the help, the man
// page and the completions look them up in.
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

/// What a command cannot do without: a value for one of `keys`. "data" stands for the [data.<name>] sections.
struct Needed {
  std::vector<std::string> keys;
  std::string what;  ///< in words that go after a colon
};

struct Command {
  std::string name, summary;
  std::string example;  ///< as it is typed, over several lines
  std::vector<Needed> needs;
  /// What it reads besides `needs` and what every command reads: a section, or "section.key" for one of its
  /// keys; "-section.key" takes a key of an earlier section away.
  std::vector<std::string> reads;
  CommandFunction function;
  OutputKind output = OutputKind::none;
  bool computes = false;  ///< runs on a GPU where there is one; the others take one only if told to
  bool saves_on_signal = false;
  bool reads_nccl_log = false;  ///< NCCL writes its log into a file for it
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
/// Returns the command of that name. @throws Error(config) naming the nearest
const Command& require_command(const std::string& name);

/// Returns what every command reads; `computes` adds the keys of GPUs.
std::vector<std::string> common_keys(bool computes);
/// Whether a command needs or reads "section.key".
bool reads_key(const Command& command, std::string_view key);
/// Returns the sections of which a command reads a key, for short names.
std::vector<std::string> sections_of(const Command& command);

/// Throws Error(config) naming the first thing that a command needs and `config` does not set.
void require_needs(const Command& command, const AppConfig& config);

}  // namespace nmoe::app

#pragma once
// exit.json in a run directory: why a run ended, for scripts that start it again. Written by run_guarded.
#include <cstdint>
#include <string>
#include <vector>

namespace nmoe::app {

inline constexpr const char* exit_file_name = "exit.json";

/// What became of a run.
struct ExitVerdict {
  int code = 0;
  std::string reason;
  std::int64_t step = -1;  ///< last completed training step; -1: none
  /// Ranks that gave no sign when the watchdog fired: stopped, dead, off the network.
  std::vector<int> absent{};
  /// If nobody was absent: ranks that were in no collective then, while others waited in one for them.
  std::vector<int> not_waiting{};
};

/// Writes `path` atomically: code, reason, step, absent_ranks and ranks_not_waiting with hosts[rank] (the
/// batch system's name, where there is one), version, time. Nothing is thrown: a run that ends must end. Not
/// collective.
void write_exit_file(const std::string& path, const ExitVerdict& verdict,
                     const std::vector<std::string>& hosts);

/// Lets the ranks of a job whose watchdogs fire find each other through files in `directory`, since none of
/// them can use MPI: rank `rank` says what it is waiting for, then looks for the others for `patience_s`.
/// Returns the ranks that are absent or not waiting. The lowest rank that is there is the one to write the
/// verdict. Not collective.
struct Roll {
  ExitVerdict verdict;
  bool is_writer = false;
};
Roll call_the_roll(const std::string& directory, int rank, int num_ranks, const std::string& last_operation,
                   double patience_s);

/// Returns whether some rank of the job calls the roll in `directory`. Not collective.
bool roll_is_called(const std::string& directory);

/// Removes the files of the roll, also what a killed job has left of one. Not collective.
void end_the_roll(const std::string& directory);

}  // namespace nmoe::app

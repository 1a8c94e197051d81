#pragma once
// Errors of every layer. Library code only throws `Error`; `app::run_guarded` is the one place that turns an
// error into an exit code (ENGINEERING 3).
#include <fmt/core.h>

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

#include "neuronmoe/base/enum_names.hpp"

namespace nmoe {

/// What went wrong. What the shell sees is exit_code().
enum class ErrorCode : int {
  internal = 1,     ///< a broken promise of our own code
  bad_data,         ///< an input file is missing, damaged or of the wrong shape
  io,               ///< the operating system or HDF5 refused a read or write
  no_space,         ///< not enough free space for what is about to be written
  config,           ///< option, configuration or topology that cannot be honored
  saved_on_signal,  ///< not a failure: checkpoint written after SIGUSR1/SIGTERM, run again to go on
  watchdog,         ///< no progress for longer than the watchdog allows
  nan_limit,        ///< too many steps in a row with a non-finite loss or gradient
};

/// A row of the table of exit codes, which --help prints (README, "Exit codes").
struct ExitRow {
  ErrorCode value;
  std::string_view name;
  int exit_code;
  std::string_view meaning;
};
constexpr auto enum_names(ErrorCode) {
  // An array with a name: the front end of nvcc 12 evaluates no std::to_array of a temporary one.
  constexpr ExitRow rows[] = {
      {ErrorCode::bad_data, "bad_data", 65, "bad input data"},
      {ErrorCode::io, "io", 70, "input or output failed"},
      {ErrorCode::internal, "internal", 70, "internal error: a fault of the program itself"},
      {ErrorCode::no_space, "no_space", 75, "no space left"},
      {ErrorCode::config, "config", 78, "wrong config, command line or topology"},
      {ErrorCode::saved_on_signal, "saved_on_signal", 85,
       "saved on a signal (USR1, TERM): start again to go on"},
      {ErrorCode::watchdog, "watchdog", 86, "watchdog: a rank made no progress"},
      {ErrorCode::nan_limit, "nan_limit", 87,
       "too many steps in a row with a loss or gradient that is not finite"},
  };
  return std::to_array(rows);
}

/// Returns the code that the program ends with after an error of that kind.
constexpr int exit_code(ErrorCode code) {
  for (const ExitRow& row : enum_table<ErrorCode>) {
    if (row.value == code) return row.exit_code;
  }
  return exit_code(ErrorCode::internal);
}

/// An error and its kind, which decides the exit code of the job. The message names file, place, both values,
/// remedy.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// Throws Error(code, message + source position for internal errors). Never returns.
[[noreturn]] void throw_error(ErrorCode code, const char* file, int line, const char* expression,
                              const std::string& message);

}  // namespace nmoe

/// NMOE_CHECK(condition, code, format, args...): throws nmoe::Error unless condition holds.
#define NMOE_CHECK(condition, code, ...)                                           \
  do {                                                                             \
    if (!(condition)) [[unlikely]]                                                 \
      ::nmoe::throw_error(::nmoe::ErrorCode::code, __FILE__, __LINE__, #condition, \
                          ::fmt::format(__VA_ARGS__));                             \
  } while (false)

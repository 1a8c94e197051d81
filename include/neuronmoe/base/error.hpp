#pragma once
// Errors of every layer. Library code only throws `Error`; `app::run_guarded` is the one place that turns an
// error into an exit code (ENGINEERING: errors when many ranks run).
#include <fmt/core.h>

#include <stdexcept>
#include <string>

namespace nmoe {

/// Exit codes of the program (README, "Exit codes"). The value is what the shell sees.
enum class ErrorCode : int {
  internal = 70,         ///< a broken promise of our own code
  bad_data = 65,         ///< an input file is missing, damaged or of the wrong shape
  io = 70,               ///< the operating system or HDF5 refused a read or write
  no_space = 75,         ///< not enough free space for what is about to be written
  config = 78,           ///< option, configuration or topology that cannot be honoured
  saved_on_signal = 85,  ///< not a failure: checkpoint written after SIGUSR1/SIGTERM, run again to go on
  watchdog = 86,         ///< no progress for longer than the watchdog allows
  nan_limit = 87,        ///< too many steps in a row with a non-finite loss or gradient
};

/// An error with the exit code it should end the job with. The message names file, place, both values,
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

#pragma once
// Logging with the rank in front, and the progress line of long work. Made once in app, passed down by
// reference.
#include <fmt/core.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace nmoe {

/// Writes one line per call to stderr as "[rank 0] message". `info` speaks on rank 0 only; `warn` on every
/// rank. Thread-safe. Not collective.
class Logger {
 public:
  explicit Logger(int rank, bool quiet = false);
  ~Logger();
  Logger(Logger&&) noexcept;
  Logger& operator=(Logger&&) noexcept;

  void info_line(std::string_view message) const;
  void warn_line(std::string_view message) const;
  template <typename... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) const {
    if (rank_ == 0) info_line(fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) const {
    warn_line(fmt::format(format, std::forward<Args>(args)...));
  }
  /// Names the long work under way, for signs_of_life(). The last name stays.
  void set_task(const std::string& what) const;
  /// Says on rank 0 that work goes on, and which, if no line was written for `silence_s`.
  void signs_of_life(double silence_s) const;
  int rank() const { return rank_; }
  bool quiet() const { return quiet_; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  int rank_;
  bool quiet_;
};

/// Progress of long work on rank 0: "what: 120/500 (24 %), 8123 tokens/s, ETA 0:42", at most once per
/// `interval_s`.
class Progress {
 public:
  Progress(const Logger& log, std::string what, std::uint64_t total, std::string unit,
           double interval_s = 5.0);
  /// `done` counts finished items, `units` the amount of work in `unit` behind them; `detail` is appended.
  void update(std::uint64_t done, double units, std::string_view detail = {});

 private:
  const Logger& log_;
  std::string what_, unit_;
  std::uint64_t total_, first_done_ = 0;
  double interval_s_, first_units_ = 0.0;
  bool started_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace nmoe

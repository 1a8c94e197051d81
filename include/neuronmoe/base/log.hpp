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

/// Goes back to the beginning of a terminal's line and empties it.
inline constexpr std::string_view terminal_line_start = "\r\x1b[K";

/// What stderr can do. A terminal with `columns` > 0 has its last line rewritten by progress; `colors` says
/// whether warnings stand out.
struct Terminal {
  int columns = 0;
  bool colors = false;
};

/// Writes one line per call to stderr as "[rank 0] message". `info` speaks on rank 0 only; `warn` on every
/// rank. Thread-safe. Not collective.
class Logger {
 public:
  explicit Logger(int rank, bool quiet = false, Terminal terminal = {});
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
  /// On rank 0 of a terminal: puts `text`, cut to its width, where the last line is that was shown so; the
  /// next message takes its place. Elsewhere nothing.
  void show(std::string_view text) const;
  /// Whether show() shows anything.
  bool shows() const { return rank_ == 0 && !quiet_ && terminal_.columns > 0; }
  int rank() const { return rank_; }
  bool quiet() const { return quiet_; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  int rank_;
  bool quiet_;
  Terminal terminal_;
};

/// Progress of long work on rank 0: "what: 120/500 (24 %), 8123 tokens/s, ETA 0:42", at most once per
/// `interval_s`. On a terminal it is one line with a bar that is rewritten; what stays is the last one and,
/// once per `interval_s`, what `keep` asks for.
class Progress {
 public:
  Progress(const Logger& log, std::string what, std::uint64_t total, std::string unit,
           double interval_s = 5.0);
  /// Reports progress if it is time for a line. `done` counts finished items, `units` the amount of work in
  /// `unit` behind them; `detail` is appended.
  void update(std::uint64_t done, double units, std::string_view detail = {}, bool keep = false);

 private:
  using Clock = std::chrono::steady_clock;
  const Logger& log_;
  std::string what_, unit_;
  std::uint64_t total_, first_done_ = 0;
  double interval_s_, first_units_ = 0.0;
  bool started_ = false;
  Clock::time_point start_, last_, shown_;
};

}  // namespace nmoe

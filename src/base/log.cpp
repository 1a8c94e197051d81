// Log lines and the progress line, by spdlog.
#include "neuronmoe/base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <utility>

#include "neuronmoe/base/one_line.hpp"

namespace nmoe {

struct Logger::Impl {
  using Clock = std::chrono::steady_clock;
  std::shared_ptr<spdlog::logger> logger;
  std::mutex mutex;  // of what follows
  Clock::time_point begin = Clock::now(), last_line = begin;
  std::string task;
  bool shown = false;  // the terminal's last line is one of show()

  ~Impl() {
    if (shown) write("\n");
  }
  static void write(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  }
  /// Writes a line of its own, in place of what show() wrote.
  template <typename Line>
  void say(Line&& line) {
    const std::lock_guard lock(mutex);
    last_line = Clock::now();
    if (shown) write(terminal_line_start);
    shown = false;
    line(*logger);
  }
};

namespace {

constexpr std::string_view yellow = "\x1b[33m", no_color = "\x1b[0m";

/// The longest beginning of UTF-8 `text` with at most `columns` characters.
std::string_view cut_to(std::string_view text, int columns) {
  std::size_t end = 0;
  for (int taken = 0; end < text.size(); ++end) {
    const bool begins = (static_cast<unsigned char>(text[end]) & 0xC0U) != 0x80U;
    if (begins && ++taken > columns) break;
  }
  return text.substr(0, end);
}

/// "[#####.....]".
std::string bar(double share) {
  constexpr int width = 16;
  const int full = std::clamp(static_cast<int>(share * width + 0.5), 0, width);
  return "[" + std::string(static_cast<std::size_t>(full), '#') +
         std::string(static_cast<std::size_t>(width - full), '.') + "]";
}

}  // namespace

Logger::Logger(int rank, bool quiet, Terminal terminal)
    : impl_(std::make_unique<Impl>()), rank_(rank), quiet_(quiet), terminal_(terminal) {
  impl_->logger =
      std::make_shared<spdlog::logger>("neuronmoe", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  impl_->logger->set_pattern(fmt::format("[%H:%M:%S rank {}] %v", rank));
  impl_->logger->flush_on(spdlog::level::info);
}
Logger::~Logger() = default;
Logger::Logger(Logger&&) noexcept = default;
Logger& Logger::operator=(Logger&&) noexcept = default;

void Logger::info_line(std::string_view message) const {
  if (quiet_ || rank_ != 0) return;
  impl_->say([&](spdlog::logger& out) { out.info("{}", without_escapes(message)); });
}
void Logger::warn_line(std::string_view message) const {
  impl_->say([&](spdlog::logger& out) {
    out.warn("{}warning:{} {}", terminal_.colors ? yellow : "", terminal_.colors ? no_color : "",
             without_escapes(message));
  });
}

void Logger::show(std::string_view text) const {
  if (!shows()) return;
  const std::lock_guard lock(impl_->mutex);
  impl_->last_line = Impl::Clock::now();
  impl_->shown = true;
  const std::string clean = without_escapes(text);
  Impl::write(std::string(terminal_line_start) + std::string(cut_to(clean, terminal_.columns - 1)));
}

void Logger::set_task(const std::string& what) const {
  const std::lock_guard lock(impl_->mutex);
  impl_->task = what;
}

void Logger::signs_of_life(double silence_s) const {
  using seconds = std::chrono::duration<double>;
  std::string line;
  {
    const std::lock_guard lock(impl_->mutex);
    const auto now = Impl::Clock::now();
    if (seconds(now - impl_->last_line).count() < silence_s) return;
    line = fmt::format("{}{}still at work, {:.0f} s since the start", impl_->task,
                       impl_->task.empty() ? "" : ": ", seconds(now - impl_->begin).count());
  }
  if (shows())
    show(line);
  else
    info_line(line);
}

Progress::Progress(const Logger& log, std::string what, std::uint64_t total, std::string unit,
                   double interval_s)
    : log_(log),
      what_(std::move(what)),
      unit_(std::move(unit)),
      total_(total),
      interval_s_(interval_s),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {
  log.set_task(what_);
}

void Progress::update(std::uint64_t done, double units, std::string_view detail, bool keep) {
  using seconds = std::chrono::duration<double>;
  constexpr double glance_s = 0.2;
  const auto now = Clock::now();
  if (!started_ && done < total_) {  // the first update includes warm-up; rates are measured from here
    start_ = now;
    first_done_ = done;
    first_units_ = units;
    last_ = now;
  }
  if (!std::exchange(started_, true) && done < total_) return;  // no rate yet
  const bool due = done >= total_ || seconds(now - last_).count() >= interval_s_;
  const bool stays = due && (done >= total_ || keep || !log_.shows());
  if (!stays && (!log_.shows() || seconds(now - shown_).count() < glance_s)) return;
  (stays ? last_ : shown_) = now;
  const double elapsed = seconds(now - start_).count();
  const double rate = elapsed > 0 ? (units - first_units_) / elapsed : 0.0;
  const double per_item = done > first_done_ ? elapsed / static_cast<double>(done - first_done_) : 0.0;
  const auto eta = static_cast<std::uint64_t>(per_item * static_cast<double>(total_ - done) + 0.5);
  const double share = total_ > 0 ? static_cast<double>(done) / static_cast<double>(total_) : 1.0;
  const std::string state =
      fmt::format("{}/{} ({:.0f} %), {:.0f} {}/s, ETA {}:{:02}{}{}", done, total_, 100.0 * share, rate, unit_,
                  eta / 60, eta % 60, detail.empty() ? "" : ", ", detail);
  if (stays)
    log_.info("{}: {}", what_, state);
  else
    log_.show(fmt::format("{} {} {}", what_, bar(share), state));
}

}  // namespace nmoe

// Log lines and the progress line, by spdlog.
#include "neuronmoe/base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <mutex>

#include "neuronmoe/base/one_line.hpp"

namespace nmoe {

struct Logger::Impl {
  using Clock = std::chrono::steady_clock;
  std::shared_ptr<spdlog::logger> logger;
  std::mutex mutex;  // of what follows
  Clock::time_point begin = Clock::now(), last_line = begin;
  std::string task;

  void note_line() {
    const std::lock_guard lock(mutex);
    last_line = Clock::now();
  }
};

Logger::Logger(int rank, bool quiet) : impl_(std::make_unique<Impl>()), rank_(rank), quiet_(quiet) {
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
  impl_->note_line();
  impl_->logger->info("{}", without_escapes(message));
}
void Logger::warn_line(std::string_view message) const {
  impl_->note_line();
  impl_->logger->warn("warning: {}", without_escapes(message));
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

void Progress::update(std::uint64_t done, double units, std::string_view detail) {
  using seconds = std::chrono::duration<double>;
  const auto now = std::chrono::steady_clock::now();
  if (!started_) {  // the first update includes warm-up; rates are measured from here
    started_ = true;
    start_ = now;
    first_done_ = done;
    first_units_ = units;
    last_ = now;
    if (done < total_) return;  // no rate yet
  }
  if (seconds(now - last_).count() < interval_s_ && done < total_) return;
  last_ = now;
  const double elapsed = seconds(now - start_).count();
  const double rate = elapsed > 0 ? (units - first_units_) / elapsed : 0.0;
  const double per_item = done > first_done_ ? elapsed / static_cast<double>(done - first_done_) : 0.0;
  const auto eta = static_cast<std::uint64_t>(per_item * static_cast<double>(total_ - done) + 0.5);
  const double percent = total_ > 0 ? 100.0 * static_cast<double>(done) / static_cast<double>(total_) : 100.0;
  log_.info("{}: {}/{} ({:.0f} %), {:.0f} {}/s, ETA {}:{:02}{}{}", what_, done, total_, percent, rate, unit_,
            eta / 60, eta % 60, detail.empty() ? "" : ", ", detail);
}

}  // namespace nmoe

// The thread that breaks long silences.
#include "signs_of_life.hpp"

#include <chrono>

namespace nmoe::app {

SignsOfLife::SignsOfLife(const Logger& log) : log_(log) {
  if (log.rank() == 0 && !log.quiet()) thread_ = std::thread([this] { watch(); });
}

SignsOfLife::~SignsOfLife() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void SignsOfLife::watch() {
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, std::chrono::milliseconds(500), [this] { return stop_; }))
    log_.signs_of_life(longest_silence_s);
}

}  // namespace nmoe::app

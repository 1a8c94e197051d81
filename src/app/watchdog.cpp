// The thread that ends a process without progress.
#include "watchdog.hpp"

#include <algorithm>
#include <chrono>

namespace nmoe::app {

Watchdog::Watchdog(const comm::Heartbeat& heartbeat, std::function<void(double)> on_hang)
    : heartbeat_(heartbeat), on_hang_(std::move(on_hang)), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::set_timeout(double timeout_s) {
  {
    const std::lock_guard lock(mutex_);
    timeout_s_ = timeout_s;
    reset_ = true;
  }
  changed_.notify_all();
}

void Watchdog::ask(std::function<bool()> others_wait) {
  const std::lock_guard lock(mutex_);
  others_wait_ = std::move(others_wait);
}

const sigset_t& stop_signals() {
  static const sigset_t set = [] {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGTERM);
    return signals;
  }();
  return set;
}

void Watchdog::watch() {
  pthread_sigmask(SIG_UNBLOCK, &stop_signals(), nullptr);
  using clock = std::chrono::steady_clock;
  std::unique_lock lock(mutex_);
  std::uint64_t last_beat = 0;
  clock::time_point last_change = clock::now();
  while (!stop_) {
    const std::uint64_t beat = heartbeat_.beats.load(std::memory_order_relaxed);
    const auto now = clock::now();
    if (reset_ || beat != last_beat || timeout_s_ <= 0) {
      reset_ = false;
      last_beat = beat;
      last_change = now;
    }
    const double gap_s = heartbeat_.longest_gap_s.load(std::memory_order_relaxed);
    const double limit_s =
        gap_s > 0 ? std::min(timeout_s_, std::max(least_s, factor_of_gap * gap_s)) : timeout_s_;
    const double idle_s = std::chrono::duration<double>(now - last_change).count();
    const bool others_wait = others_wait_ && idle_s >= limit_s / 4 && others_wait_();
    if (timeout_s_ > 0 && (idle_s >= limit_s || others_wait)) {
      on_hang_(idle_s);
      last_change = now;
    }
    const double nap_s = timeout_s_ > 0 ? std::clamp(timeout_s_ / 10.0, 0.02, 1.0) : 1.0;
    changed_.wait_for(lock, std::chrono::duration<double>(nap_s));
  }
}

}  // namespace nmoe::app

#pragma once
// Ends a process that makes no progress: a rank that waits for a dead, stopped or looping one would wait
// until the job's time limit (PLATFORM 0.2). Started by run_guarded, fed by Heartbeat::beat of long work.
#include <signal.h>  // NOLINT(modernize-deprecated-headers): sigset_t is POSIX

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "neuronmoe/comm/execution_context.hpp"

namespace nmoe::app {

/// The signals that ask a run to save and stop: SIGUSR1 and SIGTERM.
const sigset_t& stop_signals();

/// Its thread is also the one that receives stop_signals() when all others keep them blocked.
class Watchdog {
 public:
  /// Calls `on_hang(seconds)` from its own thread once `heartbeat` has not changed for `timeout_s`; that call
  /// is expected to end the process.
  Watchdog(const comm::Heartbeat& heartbeat, std::function<void(double)> on_hang);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  /// 0 switches it off. The clock starts anew. Where the heartbeat knows the longest gap between beats in the
  /// present work, that many times factor_of_gap is enough, but never less than least_s.
  void set_timeout(double timeout_s);
  static constexpr double factor_of_gap = 20.0, least_s = 120.0;
  /// From a quarter of the timeout without a change on, `others_wait` is asked, too: once it is true, on_hang
  /// is called at once. So ranks whose last sign of life differs by seconds answer the same roll call.
  void ask(std::function<bool()> others_wait);

 private:
  void watch();
  const comm::Heartbeat& heartbeat_;
  std::function<void(double)> on_hang_;
  std::function<bool()> others_wait_;
  std::mutex mutex_;
  std::condition_variable changed_;
  double timeout_s_ = 0.0;
  bool reset_ = true, stop_ = false;
  std::thread thread_;
};

}  // namespace nmoe::app

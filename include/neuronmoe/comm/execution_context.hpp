#pragma once
// Where the program runs: made once in app and passed down by reference (DESIGN 2). Nothing else is global.
#include <atomic>
#include <cstdint>

#include "neuronmoe/base/log.hpp"
#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm {

/// Signs of life and of progress for the watchdog thread, and the flag that SIGUSR1/SIGTERM set. Written from
/// any thread.
struct Heartbeat {
  std::atomic<std::uint64_t> beats{0};
  std::atomic<bool> stop_requested{false};
  std::atomic<std::int64_t> step{-1};  ///< last training step that was completed; -1 before the first
  std::atomic<double> longest_gap_s{
      0.0};  ///< longest time between beats in work of the present kind; 0: not known
  std::atomic<bool> owns_output{false};  ///< this job has taken the lock of its output
  void beat() { beats.fetch_add(1, std::memory_order_relaxed); }
};

struct ExecutionContext {
  Communicator& world;
  Device device;
  Stream& stream;
  const Logger& log;
  Heartbeat& heartbeat;
};

}  // namespace nmoe::comm

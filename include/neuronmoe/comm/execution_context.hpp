#pragma once
// Where the program runs: made once in app and passed down by reference (DESIGN 2). Nothing else is global.
#include <atomic>
#include <cstdint>

#include "neuronmoe/base/log.hpp"
#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm {

/// Signs of life for the watchdog thread, and the flag that SIGUSR1/SIGTERM set. Written from any thread.
struct Heartbeat {
  std::atomic<std::uint64_t> beats{0};
  std::atomic<bool> stop_requested{false};
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

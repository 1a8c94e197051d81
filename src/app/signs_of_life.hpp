#pragma once
// Nobody should have to guess whether a command still works: after some seconds without a line it says so.
#include <condition_variable>
#include <mutex>
#include <thread>

#include "neuronmoe/base/log.hpp"

namespace nmoe::app {

/// Seconds without a line after which rank 0 gives a sign of life.
inline constexpr double longest_silence_s = 9.0;

/// A thread that asks the logger for signs of life, from construction to destruction.
class SignsOfLife {
 public:
  /// `log` outlives it.
  explicit SignsOfLife(const Logger& log);
  ~SignsOfLife();
  SignsOfLife(const SignsOfLife&) = delete;
  SignsOfLife& operator=(const SignsOfLife&) = delete;

 private:
  void watch();
  const Logger& log_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  std::thread thread_;  // on rank 0, unless the logger is quiet
};

}  // namespace nmoe::app

#pragma once
// One writer per output: a small file beside (or in) an output that says who writes it and shows that the
// writer is alive. It works where flock does not: it needs exclusive creation and time stamps, which every
// file system has. app takes it before any work; readers never look at it.
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace nmoe::io {

/// Who writes an output, as its lock file says it (JSON). `job` and `restart` are the batch system's, ""
/// without one.
struct LockOwner {
  std::string host, job, restart;
  long long pid = 0;
  std::string process;  ///< boot, process namespace and start time: a pid alone may have been given anew
};
/// Returns the calling process. @throws nothing: what /proc does not tell stays empty
LockOwner lock_owner_of_this_process(std::string host, std::string job, std::string restart);

/// How often a holder shows that it lives, and after how long without a sign its lock is taken.
struct LockTimes {
  std::chrono::duration<double> beat{5.0}, stale{60.0};
};

class OutputLock {
 public:
  using Warn = std::function<void(const std::string& message)>;
  /// Makes the lock file `path` of `output`, or takes over one whose holder is gone: a process of this
  /// machine that has ended, an earlier start of the same batch job, or one that has shown no sign of life
  /// for `times.stale` (waits until it is certain). `warn` hears of a takeover, `lost` from another thread if
  /// somebody else took this lock over. Not collective. @throws Error(config) naming the holder if it lives,
  /// Error(io|no_space) if the lock cannot be made
  OutputLock(std::string path, std::string output, const LockOwner& owner, LockTimes times, const Warn& warn,
             std::function<void()> lost);
  /// Removes the lock if it is still this one.
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  void acquire(const LockOwner& owner, const Warn& warn);
  void beat(const std::function<void()>& lost);

  std::string path_, output_, content_;
  LockTimes times_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nmoe::io

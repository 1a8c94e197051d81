#pragma once
// The FIFO of collectives of one process. All groups share it, so MPI sees one order per rank: program order.
// Two threads may take the head of the queue, never at the same time (MPI_THREAD_SERIALIZED is enough): the
// communication thread, and any caller inside `wait()`. "Caller helps" keeps a collective that is awaited at
// once as cheap as a direct MPI call, while big ones started early overlap with computing.
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "../call.hpp"

namespace nmoe::comm::detail {

class Queue {
 public:
  struct Task {
    Call call;
    std::function<void()> run;
    std::exception_ptr error;
    bool done = false;
  };

  /// `on_finished`, which may be empty, is called after each task that did not throw.
  explicit Queue(std::function<void()> on_finished);
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  /// Joins the thread if nothing is left to do; otherwise (an exception is unwinding and peers may never
  /// answer) leaves the thread behind with the state it needs.
  ~Queue();

  /// Appends. With `wake` the communication thread starts on it, else it waits for the next wait or wake.
  void submit(const std::shared_ptr<Task>& task, bool wake);
  /// Runs what is queued before `task`, then `task`, unless the communication thread is at it. Rethrows.
  void wait(Task& task);
  /// Returns when the queue is empty and nobody is inside MPI.
  void drain();
  std::string last_operation() const;
  /// True on the communication thread, which must leave the core to whoever computes while it waits.
  static bool is_communication_thread();
  /// Memory that grows to the largest request and stays. Only for the task that is running.
  std::byte* scratch(std::size_t num_bytes);

 private:
  struct State {
    mutable std::mutex mutex;
    std::condition_variable work, done;
    std::deque<std::shared_ptr<Task>> fifo;
    bool busy = false;   ///< some thread runs a task
    bool awake = false;  ///< the communication thread was asked to empty the queue
    bool stop = false;
    bool any_started = false;
    Call last;
    std::function<void()> on_finished;
  };
  static void run_next(State& state, std::unique_lock<std::mutex>& lock);
  static void thread_main(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;
  std::thread thread_;
  std::unique_ptr<std::byte[]> scratch_;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace nmoe::comm::detail

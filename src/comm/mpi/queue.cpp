// The queue of collectives, and the two kinds of threads that empty it.
#include "queue.hpp"

namespace nmoe::comm::detail {

namespace {
thread_local bool on_communication_thread = false;
}

Queue::Queue(std::function<void()> on_finished) : state_(std::make_shared<State>()) {
  state_->on_finished = std::move(on_finished);
}

Queue::~Queue() {
  if (!thread_.joinable()) return;
  bool idle = false;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
    idle = !state_->busy && state_->fifo.empty();
  }
  state_->work.notify_all();
  if (idle) {
    thread_.join();
  } else {
    (void)scratch_.release();  // NOLINT(bugprone-unused-return-value): the running task may still use it
    thread_.detach();
  }
}

void Queue::run_next(State& state, std::unique_lock<std::mutex>& lock) {
  const std::shared_ptr<Task> task = std::move(state.fifo.front());
  state.fifo.pop_front();
  state.busy = true;
  state.last = task->call;
  state.any_started = true;
  lock.unlock();
  std::exception_ptr error;
  try {
    task->run();
    if (state.on_finished) state.on_finished();
  } catch (...) {
    error = std::current_exception();
  }
  task->run = nullptr;
  lock.lock();
  task->error = error;
  task->done = true;
  state.busy = false;
  state.done.notify_all();
  if (state.fifo.empty()) state.awake = false;
  if (state.awake) state.work.notify_one();  // the rest is the thread's, if a caller ran this one
}

bool Queue::is_communication_thread() {
  return on_communication_thread;
}

void Queue::thread_main(const std::shared_ptr<State>& state) {
  on_communication_thread = true;
  std::unique_lock lock(state->mutex);
  while (true) {
    state->work.wait(lock,
                     [&] { return state->stop || (state->awake && !state->busy && !state->fifo.empty()); });
    if (state->stop) return;
    run_next(*state, lock);
  }
}

void Queue::submit(const std::shared_ptr<Task>& task, bool wake) {
  bool notify = false;
  {
    const std::lock_guard lock(state_->mutex);
    state_->fifo.push_back(task);
    if (wake) {
      if (!thread_.joinable()) thread_ = std::thread(thread_main, state_);
      state_->awake = true;
      notify = !state_->busy;
    }
  }
  if (notify) state_->work.notify_one();
}

void Queue::wait(Task& task) {
  std::unique_lock lock(state_->mutex);
  while (!task.done) {
    if (!state_->busy && !state_->fifo.empty()) {
      run_next(*state_, lock);
    } else {
      state_->done.wait(lock);
    }
  }
  if (task.error) std::rethrow_exception(std::exchange(task.error, nullptr));
}

void Queue::drain() {
  std::unique_lock lock(state_->mutex);
  while (state_->busy || !state_->fifo.empty()) {
    if (!state_->busy) {
      run_next(*state_, lock);
    } else {
      state_->done.wait(lock);
    }
  }
}

std::string Queue::last_operation() const {
  const std::lock_guard lock(state_->mutex);
  if (!state_->any_started) return "none";
  return state_->last.to_string() + (state_->busy ? ", still running" : ", finished");
}

std::byte* Queue::scratch(std::size_t num_bytes) {
  if (num_bytes > scratch_bytes_) {
    scratch_.reset();
    scratch_ = std::make_unique_for_overwrite<std::byte[]>(num_bytes);
    scratch_bytes_ = num_bytes;
  }
  return scratch_.get();
}

}  // namespace nmoe::comm::detail

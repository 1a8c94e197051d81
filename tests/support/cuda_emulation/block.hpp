#pragma once
// Runs the threads of one block as fibers on the calling thread: each runs until it meets a barrier or an
// exchange between the lanes of its warp. What would hang or be undefined on a GPU (a barrier some threads do
// not reach, an exchange with a lane that has returned) is an error here.
#include <ucontext.h>

#include <array>
#include <csetjmp>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "neuronmoe/base/error.hpp"

namespace nmoe::emulation {

class Block {
 public:
  static constexpr unsigned lanes = 32;
  static constexpr std::size_t stack_bytes = 256 * 1024, slot_bytes = 64;

  /// The block whose fibers are running.
  static Block& current() { return *instance(); }

  /// Runs `body` once per thread of the block at `blockIdx`; dynamic shared memory starts as NaNs.
  static void run(unsigned threads, std::size_t shared_bytes, const std::function<void()>& body) {
    thread_local Block block;  // its fibers stay on their thread
    instance() = &block;
    NMOE_CHECK(threads >= 1 && threads <= 1024, internal, "{} threads in a block", threads);
    NMOE_CHECK(shared_bytes <= 227 * 1024, internal, "{} bytes of shared memory in a block", shared_bytes);
    block.shared_.assign(shared_bytes / 16 + 1, Sixteen{});
    std::memset(block.shared_.data(), 0xFF, block.shared_.size() * sizeof(Sixteen));
    block.body_ = &body;
    block.start(threads);
    block.schedule();
  }

  unsigned char* shared_memory() { return block_memory(); }

  /// Every thread of the block arrives before any goes on.
  void synchronize() { wait(State::at_barrier); }

  /// values[l] = what lane l of the warp handed in.
  template <typename T>
  std::array<T, lanes> exchange(const T& mine) {
    static_assert(sizeof(T) <= slot_bytes);
    Fiber& self = *fibers_[running_];
    const std::size_t warp = running_ / lanes, half = self.exchanges++ % 2;
    self.exchanged_bytes = sizeof(T);
    std::memcpy(slot(warp, half, running_ % lanes), &mine, sizeof(T));
    wait(State::at_exchange);
    std::array<T, lanes> values;
    for (unsigned lane = 0; lane < lanes; ++lane)
      std::memcpy(&values[lane], slot(warp, half, lane), sizeof(T));
    return values;
  }

 private:
  enum class State { ready, at_barrier, at_exchange, done };
  struct Fiber {
    ucontext_t context;   // where it starts
    std::jmp_buf resume;  // where it waits: jumping costs no system call, swapcontext does
    bool started = false;
    std::unique_ptr<unsigned char[]> stack{new unsigned char[stack_bytes]};
    State state = State::ready;
    std::size_t exchanges = 0, exchanged_bytes = 0;
  };
  struct alignas(16) Sixteen {
    unsigned char bytes[16];
  };

  static Block*& instance() {
    static Block* block = nullptr;
    return block;
  }
  unsigned char* block_memory() { return shared_.data()->bytes; }
  unsigned char* slot(std::size_t warp, std::size_t half, unsigned lane) {
    return slots_.data() + ((warp * 2 + half) * lanes + lane) * slot_bytes;
  }

  static void enter() {
    while (true) {  // once per block that runs this fiber
      Block& block = current();
      try {
        (*block.body_)();
      } catch (...) {
        block.error_ = std::current_exception();
      }
      block.wait(State::done);
    }
  }

  void start(unsigned threads) {
    num_threads_ = threads;
    slots_.resize((threads + lanes - 1) / lanes * 2 * lanes * slot_bytes);
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = *fibers_[i];
      const bool reusable = fiber.started && fiber.state == State::done;
      fiber.state = State::ready;
      fiber.exchanges = 0;
      if (reusable) continue;  // it waits at the end of its loop; a new context costs system calls
      fiber.started = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = stack_bytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &Block::enter, 0);
    }
  }

  /// Returns when the fiber waits or has ended.
  void switch_to(Fiber& fiber) {
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.context);
  }

  void wait(State state) {
    Fiber& self = *fibers_[running_];
    self.state = state;
    if (_setjmp(self.resume) == 0) _longjmp(scheduler_, 1);
  }

  bool all_in(unsigned begin, unsigned end, State state) const {
    bool some = false;
    for (unsigned i = begin; i < end; ++i) {
      if (fibers_[i]->state == state) {
        some = true;
      } else if (state == State::at_exchange || fibers_[i]->state != State::done) {
        return false;  // threads that have returned count at barriers, not in exchanges
      }
    }
    return some;
  }

  bool release(unsigned begin, unsigned end, State state) {
    if (!all_in(begin, end, state)) return false;
    for (unsigned i = begin; i < end; ++i) {
      Fiber& fiber = *fibers_[i];
      NMOE_CHECK(state != State::at_exchange || fiber.exchanged_bytes == fibers_[begin]->exchanged_bytes,
                 internal, "lanes of a warp met in different exchanges");
      if (fiber.state == state) fiber.state = State::ready;
    }
    return true;
  }

  void schedule() {
    bool progress = true;
    while (progress) {
      progress = false;
      for (unsigned i = 0; i < num_threads_; ++i) {
        if (fibers_[i]->state != State::ready) continue;
        running_ = i;
        threadIdx = dim3(i, 0, 0);
        switch_to(*fibers_[i]);
        progress = true;
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      }
      for (unsigned warp = 0; warp * lanes < num_threads_; ++warp) {
        progress |= release(warp * lanes, std::min(num_threads_, (warp + 1) * lanes), State::at_exchange);
      }
      progress |= release(0, num_threads_, State::at_barrier);
    }
    for (unsigned i = 0; i < num_threads_; ++i) {
      NMOE_CHECK(fibers_[i]->state == State::done, internal,
                 "block ({}, {}, {}): thread {} waits for threads that never come", blockIdx.x, blockIdx.y,
                 blockIdx.z, i);
    }
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<unsigned char> slots_;
  std::vector<Sixteen> shared_;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr error_;
  std::jmp_buf scheduler_;
  unsigned num_threads_ = 0, running_ = 0;
};

}  // namespace nmoe::emulation

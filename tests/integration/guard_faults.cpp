// What run_guarded does when a rank misbehaves: guard_faults MODE [WATCHDOG_SECONDS [mpi|shared [TOKEN
// [EXIT_FILE]]]]. Driven by faults.py.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"

namespace {

using namespace nmoe;

void pause_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

/// Ranks other than 1 wait where rank 1 will not come: in a message or, with on_node shared, at the window.
int wait_for_the_others(comm::ExecutionContext& context, bool shared) {
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(context.world.size()), 1);
  const auto send = context.world.allocate_send(context.world.size());
  std::vector<char> receive(counts.size());
  const TensorView rows(receive.data(), DType::uint8, {context.world.size()});
  const ConstTensorView mine(send.get(), DType::uint8, {context.world.size()});
  if (shared) context.world.all_to_all_v(rows, counts, mine, counts, context.stream).wait();
  comm::all_reduce_sum(context.world, std::int64_t{1});
  return 0;
}

/// Throws if a signal that asks for a checkpoint could interrupt this thread: oneDNN's sgemm keeps its stack
/// pointer in heap memory, where a signal frame would be written.
void check_signals_are_blocked(const char* thread) {
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  for (const int number : {SIGUSR1, SIGTERM})
    NMOE_CHECK(sigismember(&blocked, number) == 1, internal, "signal {} can interrupt {}", number, thread);
}

int misbehave(comm::ExecutionContext& context, const std::string& mode, bool shared) {
  const bool culprit = context.world.rank() == 1;
  if (mode == "none") return wait_for_the_others(context, shared);
  if (mode == "signals_stay_off_computing_threads") {
    check_signals_are_blocked("the thread that computes");
    std::thread([] { check_signals_are_blocked("a worker of the thread that computes"); }).join();
    return wait_for_the_others(context, shared);
  }
  if (mode == "throw_everywhere") throw Error(ErrorCode::config, "the same mistake everywhere");
  if (mode == "agreed") {
    comm::agree(context.world, [&] { NMOE_CHECK(!culprit, bad_data, "only rank 1 has a bad file"); });
  }
  if (mode == "agreed_io" ||
      mode == "agreed_internal") {  // apart while the program runs, one code at its end
    const ErrorCode kind = mode == "agreed_io" ? ErrorCode::io : ErrorCode::internal;
    try {
      comm::agree(context.world, [&] {
        if (culprit) throw Error(kind, "only rank 1 fails");
      });
    } catch (const Error& error) {
      NMOE_CHECK(error.code() == kind, config, "{} became {}", name_of(kind), name_of(error.code()));
      throw;
    }
  }
  if (mode == "library") {  // the others are inside a library that waits for rank 1
    const auto library = context.world.split(0, context.world.rank());
    comm::agree_on_library_calls(context.world, [&] {
      NMOE_CHECK(!culprit, no_space, "only rank 1 has a full disk");
      comm::all_reduce_sum(*library, std::int64_t{1});
    });
  }
  if (mode == "throw_late") {  // every rank fails, not at the same moment
    pause_for(culprit ? 0.7 : 0.0);
    throw Error(ErrorCode::no_space, "the same mistake everywhere");
  }
  if (mode == "last_rank_fails_at_the_end") {
    if (culprit) throw Error(ErrorCode::io, "rank 1 failed after the last collective");
    return 0;
  }
  if (mode == "stop_on_signal") {
    while (!context.heartbeat.stop_requested.load()) pause_for(0.02);
    return exit_code(ErrorCode::saved_on_signal);
  }
  if (mode == "mismatch") {  // run.check_collectives is on
    if (culprit) return comm::all_reduce_sum(context.world, 1.0) > 0 ? 0 : 1;
    return wait_for_the_others(context, shared);
  }
  if (mode == "long_but_alive") {
    for (int i = 0; i < 40; ++i) {
      pause_for(0.1);
      context.heartbeat.beat();
    }
    return 0;
  }
  if (mode == "stop_late") {  // rank 0 shows signs of life for longer than the others look for each other
    context.heartbeat.owns_output = true;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(12);
    while (context.world.rank() == 0 && std::chrono::steady_clock::now() < end) {
      pause_for(0.1);
      context.heartbeat.beat();
    }
    if (culprit) std::raise(SIGSTOP);
  }
  if (!culprit) return wait_for_the_others(context, shared);
  if (mode == "throw_one") throw Error(ErrorCode::bad_data, "rank 1 alone has a bad file");
  if (mode == "out_of_memory") throw std::bad_alloc();
  if (mode == "throw_in_thread") std::thread([] { throw Error(ErrorCode::io, "thrown in a thread"); }).join();
  if (mode == "exit_1") std::exit(1);
  if (mode == "underscore_exit") _exit(0);
  if (mode == "kill") std::raise(SIGKILL);
  if (mode == "stop") std::raise(SIGSTOP);
  if (mode == "sleep") pause_for(1e6);
  if (mode == "loop") {
    for (volatile bool forever = true; forever;) {
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "none";
  if (mode == "stop_at_start" && app::launcher_rank() == 1) raise(SIGSTOP);
  app::GuardOptions options;
  options.device = Device::cpu;
  options.threads = 1;
  if (argc > 2) options.watchdog_s = std::atof(argv[2]);
  options.check_collectives = mode == "mismatch";
  const bool shared = argc > 3 && std::string(argv[3]) == "shared";
  if (shared) options.on_node = {comm::OnNode::shared, "asked for"};
  if (argc > 5) options.exit_file = argv[5];
  options.saves_on_signal = mode == "stop_on_signal";
  return app::run_guarded(
      &argc, &argv, options.watchdog_s,
      [&](comm::Communicator&) {
        if (mode == "configure_fails") throw Error(ErrorCode::config, "a bad config");
        return options;
      },
      [&](comm::ExecutionContext& context) { return misbehave(context, mode, shared); });
}

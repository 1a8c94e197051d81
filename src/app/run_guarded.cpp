// MPI from start to end around the body of a command; every error becomes an exit code here.
#include "neuronmoe/app/run_guarded.hpp"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "device_binding.hpp"
#include "exit_file.hpp"
#include "launcher.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/comm/finish_within.hpp"
#include "neuronmoe/comm/mpi_communicator.hpp"
#include "neuronmoe/io/mpi_io_failure.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "signs_of_life.hpp"
#include "standard_output.hpp"
#include "watchdog.hpp"

namespace nmoe::app {
namespace {

/// How long a failing rank waits for the others to fail (or finish) too before it ends the job alone. Shorter
/// than the watchdog, which would say less about the cause.
double grace_s(double watchdog_s) {
  return watchdog_s > 0 ? std::min(5.0, watchdog_s / 2) : 5.0;
}

// Signal and terminate handlers get no arguments: the only globals of the program.
comm::Heartbeat heartbeat;
int this_rank = 0;

struct Outcome {
  int code = 0;
  std::string message;
};

std::string encode(const Outcome& o) {
  return fmt::format("{}\n{}", o.code, o.message);
}
Outcome decode(const std::string& text) {
  Outcome o;
  const auto end = text.find('\n');
  std::from_chars(text.data(), text.data() + end, o.code);
  o.message = text.substr(end + 1);
  return o;
}

Outcome current_exception_outcome() {
  const Error error = comm::current_error();
  return {exit_code(error.code()), error.what()};
}

void print_error(const std::string& who, const std::string& message) {
  std::fflush(stdout);
  const std::string line =
      fmt::format("{}{}{}: {}\n", error_terminal().columns > 0 ? terminal_line_start : "",
                  accented("neuronmoe: error", Accent::bad, true), who, message);
  std::fwrite(line.data(), 1, line.size(), stderr);  // one call: lines of several ranks do not mix
  std::fflush(stderr);
}

std::string on_rank() {
  return fmt::format(" on rank {} ({})", this_rank, host_name());
}

/// Where and with what names the end of a run is written down.
struct Obituary {
  std::string exit_file;
  std::vector<std::string> hosts;  // of each rank

  std::string directory() const { return std::filesystem::path(exit_file).parent_path().string(); }
  void write(const ExitVerdict& verdict) const {
    if (!exit_file.empty() && heartbeat.owns_output) write_exit_file(exit_file, verdict, hosts);
  }
};

/// Ends the whole job at once, for errors that the other ranks do not know of.
[[noreturn]] void abort_job(const Outcome& outcome, const Obituary& obituary = {}) {
  print_error(on_rank(), outcome.message);
  obituary.write({.code = outcome.code, .reason = outcome.message, .step = heartbeat.step});
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized != 0 && finalized == 0) MPI_Abort(MPI_COMM_WORLD, outcome.code);
  _exit(outcome.code);
}

[[noreturn]] void terminate_handler() {
  Outcome outcome{exit_code(ErrorCode::internal), "std::terminate was called"};
  if (std::current_exception()) outcome = current_exception_outcome();
  abort_job(outcome);
}

extern "C" void ask_to_stop(int) {
  heartbeat.stop_requested.store(true, std::memory_order_relaxed);
}

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = ask_to_stop;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);  // a second SIGTERM ends the process
  sigaction(SIGTERM, &action, nullptr);
}

/// SIGUSR1 and SIGTERM are taken by the watchdog's thread (and MPI's), never by a thread that computes:
/// oneDNN's sgemm uses heap memory as its stack, and a signal frame written there destroys the heap. Threads
/// made from here on inherit it.
void keep_signals_off_this_thread() {
  pthread_sigmask(SIG_BLOCK, &stop_signals(), nullptr);
}

/// For commands that have nothing to save: signals end them as usual, one that already came included.
void restore_default_signals() {
  std::signal(SIGUSR1, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  if (heartbeat.stop_requested.load()) kill(getpid(), SIGTERM);  // the whole process: this thread blocks it
}

void start_mpi(int* argc, char*** argv, const LauncherHint& hint) {
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided);
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &this_rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  NMOE_CHECK(provided >= MPI_THREAD_SERIALIZED, config,
             "this MPI gives thread level {}, at least {} (serialized) is needed", provided,
             static_cast<int>(MPI_THREAD_SERIALIZED));
  // Without PMIx, srun starts N jobs of one rank that would all write the same files.
  NMOE_CHECK(hint.num_processes == 0 || hint.num_processes == size, config,
             "the launcher started {} processes ({}) but MPI sees {}; {}", hint.num_processes, hint.variable,
             size, advice_on_start());
}

/// What every rank ended with, if all of them come to an end in time.
std::optional<std::vector<Outcome>> gather_outcomes(comm::Communicator& group, const Outcome& mine,
                                                    double patience_s) {
  std::vector<std::string> texts;
  if (mine.code == 0) {
    texts = comm::all_gather_strings(group, encode(mine));  // the watchdog guards this wait
  } else {
    auto gathered = comm::finish_within(
        patience_s, [&group, text = encode(mine)] { return comm::all_gather_strings(group, text); });
    if (!gathered) return std::nullopt;
    texts = std::move(*gathered);
  }
  std::vector<Outcome> outcomes;
  for (const auto& text : texts) outcomes.push_back(decode(text));
  return outcomes;
}

/// Rank 0 prints every distinct message once. The code of the lowest rank that failed.
int report(const std::vector<Outcome>& outcomes) {
  int code = 0;
  for (std::size_t r = 0; r < outcomes.size(); ++r) {
    if (code == 0) code = outcomes[r].code;
    if (this_rank != 0 || outcomes[r].message.empty()) continue;
    const auto same = [&](const Outcome& o) { return o.message == outcomes[r].message; };
    if (std::any_of(outcomes.begin(), outcomes.begin() + static_cast<std::ptrdiff_t>(r), same)) continue;
    const bool all = std::all_of(outcomes.begin(), outcomes.end(), same);
    print_error(all ? "" : fmt::format(" on rank {}", r), outcomes[r].message);
  }
  return code;
}

/// The world, and the same ranks once more for the agreement at the end: it never meets a collective of the
/// work.
struct Groups {
  std::unique_ptr<comm::Communicator> world, errors;
  void close() {
    errors->close();
    if (world) world->close();
  }
};

void make_groups(Groups& groups, const GuardOptions& guard) {
  MPI_Comm everybody = MPI_COMM_WORLD;
  comm::MpiOptions options;
  options.debug_checks = guard.check_collectives;
  options.on_node = guard.on_node.on_node;
  options.on_finished = [] { heartbeat.beat(); };
  groups.world = comm::make_mpi_communicator(&everybody, options);
  groups.errors = groups.world->split(0, this_rank);
}

/// The parts of a job that its end needs to know. Written while the watchdog is off.
struct Job {
  Groups groups;
  GuardOptions options;
  Obituary obituary;
};

std::string list_of(const std::vector<int>& ranks, const std::vector<std::string>& hosts) {
  std::string text;
  for (const int r : ranks)
    text += fmt::format("{}rank {} ({})", text.empty() ? "" : ", ", r, hosts[static_cast<std::size_t>(r)]);
  return text;
}

/// What a rank does whose watchdog fires: says what it waits for, finds out with the others who is missing,
/// ends. They all fire within seconds of each other (Watchdog::ask); the first that ends takes the job with
/// it.
[[noreturn]] void end_hanging_job(const Job& job, double seconds) {
  // A file system that many write to takes seconds to make a file: a shorter wait calls living ranks absent.
  const double patience_s = std::clamp(job.options.watchdog_s / 10.0, 10.0, 60.0);
  const std::string operation = job.groups.world->last_operation();
  const std::string at_step = heartbeat.step >= 0 ? fmt::format(" after step {}", heartbeat.step.load()) : "";
  print_error(on_rank(), fmt::format("no progress for {:.0f} s{} (run.watchdog_s); last collective: {}",
                                     seconds, at_step, operation));
  const int code = exit_code(ErrorCode::watchdog);
  const Obituary& obituary = job.obituary;
  if (!obituary.exit_file.empty() && heartbeat.owns_output) {
    const std::string directory = obituary.directory();
    Roll roll =
        call_the_roll(directory, this_rank, static_cast<int>(obituary.hosts.size()), operation, patience_s);
    if (roll.is_writer) {
      ExitVerdict& verdict = roll.verdict;
      verdict.code = code;
      verdict.step = heartbeat.step;
      const auto& missing = verdict.absent.empty() ? verdict.not_waiting : verdict.absent;
      verdict.reason = fmt::format("no progress for {:.0f} s{}; {}: {}", seconds, at_step,
                                   verdict.absent.empty() ? "in no collective" : "without a sign of life",
                                   missing.empty() ? "none" : list_of(missing, obituary.hosts));
      print_error("", verdict.reason);
      obituary.write(verdict);
      end_the_roll(directory);
    } else {
      std::this_thread::sleep_for(std::chrono::duration<double>(patience_s / 2));
    }
  }
  _exit(code);
}

[[noreturn]] void end_start_that_hangs(double seconds) {
  print_error(
      fmt::format(" on process {} ({})", launcher_rank(), host_name()),
      fmt::format("MPI has not started for {:.0f} s (run.watchdog_s): another process of the job is stopped, "
                  "or its node cannot be reached",
                  seconds));
  _exit(exit_code(ErrorCode::watchdog));
}

int run_body(Job& job, Watchdog& watchdog, const Configure& configure, const Body& body) {
  Groups& groups = job.groups;
  GuardOptions options = configure(*groups.world);
  std::vector<std::string> hosts = comm::all_gather_strings(*groups.world, node_name());
  watchdog.set_timeout(0);  // it looks at the job
  job.options = options;
  job.obituary = {options.exit_file, std::move(hosts)};
  io::on_mpi_io_failure([obituary = job.obituary](const Error& error) {
    abort_job({exit_code(error.code()), error.what()}, obituary);
  });
  if (options.check_collectives || options.on_node.on_node != comm::OnNode::mpi) {  // only now known
    groups.close();                                                                 // nothing is under way
    make_groups(groups, options);
  }
  if (!job.obituary.exit_file.empty())
    watchdog.ask([directory = job.obituary.directory()] {
      return heartbeat.owns_output.load() && roll_is_called(directory);
    });
  watchdog.set_timeout(options.watchdog_s);
  if (!options.saves_on_signal) restore_default_signals();
  const Logger log(this_rank, options.quiet, error_terminal());
  if (groups.world->size() > 1)
    log.info("on one node: {} ({})", name_of(options.on_node.on_node), options.on_node.reason);
  const Device device = choose_device(*groups.world, options, log);
  if (device == Device::cuda) {
    watchdog.set_timeout(0);
    groups.world = make_gpu_world(std::move(groups.world), options, log);
    watchdog.set_timeout(options.watchdog_s);
  }
  comm::Communicator& world = *groups.world;
  choose_threads(world, options.threads, log);
  const SignsOfLife signs(log);
  OwnedStream stream(device);
  comm::ExecutionContext context{world, device, stream.stream(), log, heartbeat};
  return body(context);
}

/// Runs the work and agrees on how it ended. Returns what every rank ended with.
std::vector<Outcome> run_job(Job& job, Watchdog& watchdog, const Configure& configure, const Body& body) {
  Outcome mine;
  try {
    mine.code = run_body(job, watchdog, configure, body);
  } catch (const comm::LoneError&) {
    abort_job(current_exception_outcome(), job.obituary);
  } catch (...) {
    mine = current_exception_outcome();
  }
  if (mine.code != 0) watchdog.set_timeout(0);  // the grace period is shorter and says more
  try {
    auto all = gather_outcomes(*job.groups.errors, mine, grace_s(job.options.watchdog_s));
    if (!all) abort_job(mine, job.obituary);
    job.groups.close();
    return *all;
  } catch (...) {
    abort_job(mine.code != 0 ? mine : current_exception_outcome(), job.obituary);
  }
}

/// Writes down why a run did not come to its end. Rank 0.
void write_down(const std::vector<Outcome>& outcomes, int code, const Obituary& obituary) {
  std::string reason = code == exit_code(ErrorCode::saved_on_signal) ? "saved on a signal" : "";
  for (const Outcome& outcome : outcomes)
    if (reason.empty()) reason = outcome.message;
  obituary.write({.code = code, .reason = reason, .step = heartbeat.step});
}

}  // namespace

int run_guarded(int* argc, char*** argv, double start_timeout_s, const Configure& configure,
                const Body& body) {
  std::set_terminate(terminate_handler);
  Job job;
  try {
    set_mpi_defaults();
    const LauncherHint hint = launcher_hint();
    install_signal_handlers();  // before MPI, so that an early signal is not lost
    Watchdog watchdog(heartbeat, end_start_that_hangs);
    watchdog.set_timeout(start_timeout_s);
    start_mpi(argc, argv, hint);
    keep_signals_off_this_thread();
    make_groups(job.groups, {});
  } catch (...) {
    abort_job(current_exception_outcome());
  }
  std::vector<Outcome> outcomes;
  {
    Watchdog watchdog(heartbeat, [&](double seconds) { end_hanging_job(job, seconds); });
    watchdog.set_timeout(start_timeout_s);
    outcomes = run_job(job, watchdog, configure, body);
  }
  const int code = report(outcomes);
  if (this_rank == 0 && code != 0) write_down(outcomes, code, job.obituary);
  MPI_Finalize();
  return code;
}

}  // namespace nmoe::app

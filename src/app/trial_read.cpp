// The trial process for HDF5 files without a checksum, and the comparison of those that have one.
#include "trial_read.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <set>

#include "describe_file.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/file_seal.hpp"
#include "standard_output.hpp"

namespace nmoe::app {
namespace {

constexpr rlim_t most_processor_s = 120;

using Descriptor = Handle<int, ::close, -1>;

struct Ended {
  int status;
  std::string output;
};

/// posix_spawn, not fork: a copied address space would move pages that a network card writes to.
Ended run_this_program(const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  NMOE_CHECK(::pipe2(ends.data(), O_CLOEXEC) == 0, io, "cannot make a pipe: {}", std::strerror(errno));
  const Descriptor read_end(ends[0]);
  Descriptor write_end(ends[1]);
  std::vector<char*> words;
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  // Memory that nobody wrote holds this byte, not the zeros of a young process: a free of it is a crash.
  std::string perturb = "MALLOC_PERTURB_=85";
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  environment.push_back(perturb.data());
  environment.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int failed =
      ::posix_spawn(&child, "/proc/self/exe", &actions, nullptr, words.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  NMOE_CHECK(failed == 0, io, "cannot start a process to try the file: {}", std::strerror(failed));
  write_end = Descriptor();
  Ended ended{};
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t n = ::read(read_end.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    ended.output.append(buffer.data(), static_cast<std::size_t>(n));
  }
  while (::waitpid(child, &ended.status, 0) < 0 && errno == EINTR) {
  }
  return ended;
}

std::string how_it_ended(int status) {
  if (!WIFSIGNALED(status)) return fmt::format("with code {}", WEXITSTATUS(status));
  if (WTERMSIG(status) == SIGXCPU)
    return fmt::format("after {} s without coming to an end", most_processor_s);
  return fmt::format("by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
}

}  // namespace

int run_trial(const std::vector<std::string>& arguments) {
  const rlimit processor{most_processor_s, most_processor_s + 1}, no_core{0, 0};
  ::setrlimit(RLIMIT_CPU, &processor);
  ::setrlimit(RLIMIT_CORE, &no_core);
  try {
    NMOE_CHECK(!arguments.empty(), config, "{} needs a file", trial_option);
    look_through(arguments.front(), {arguments.begin() + 1, arguments.end()});
    return 0;
  } catch (const Error& error) {
    print(error.what());
    return exit_code(ErrorCode::bad_data);
  }
}

void trial_read(comm::ExecutionContext& context, const std::string& path,
                const std::vector<std::string>& objects) {
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    std::vector<std::string> arguments{"neuronmoe", std::string(trial_option), path};
    arguments.insert(arguments.end(), objects.begin(), objects.end());
    const Ended ended = run_this_program(arguments);
    if (ended.status == 0) return;
    const bool refused =
        WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == exit_code(ErrorCode::bad_data);
    NMOE_CHECK(!refused || ended.output.empty(), bad_data, "{}", ended.output);
    NMOE_CHECK(false, bad_data,
               "{} is damaged: a process that opened it with the HDF5 library, as a trial, ended {}; make or "
               "copy it again",
               path, how_it_ended(ended.status));
  });
}

void verify_h5_inputs(comm::ExecutionContext& context, const std::vector<std::string>& paths) {
  for (const std::string& path : std::set<std::string>(paths.begin(), paths.end())) {
    if (!io::verify_seal(context.world, path)) {
      trial_read(context, path, {"/"});
      if (context.world.rank() == 0)
        context.log.warn(
            "{}: has no checksum, so damage in it may go unseen; an earlier version or another program made "
            "it, make it again for one",
            path);
    }
  }
}

}  // namespace nmoe::app

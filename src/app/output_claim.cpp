// --output looked at and locked before the work.
#include "output_claim.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>

#include "exit_file.hpp"
#include "launcher.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::app {

namespace {

namespace fs = std::filesystem;

/// Less than this is no room for any output.
constexpr std::int64_t least_free_bytes = 64 * 1024;

/// What the path is, without following where it cannot be told. @throws Error(io)
fs::file_type type_of(const std::string& option, const std::string& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  NMOE_CHECK(type != fs::file_type::none, io, "{} {}: {}; choose another", option, path, error.message());
  return type;
}

/// mkdir -p that remembers what it made.
void make_directories(const std::string& option, const std::string& directory,
                      std::vector<std::string>& made) {
  std::vector<std::string> missing;
  for (fs::path path = directory; !path.empty() && type_of(option, path.string()) == fs::file_type::not_found;
       path = path.parent_path())
    missing.insert(missing.begin(), path.string());
  io::make_directories(directory);
  made.insert(made.end(), missing.begin(), missing.end());
}

/// A message for people who wait for nobody: the job ends, since two writers in one output damage it.
[[noreturn]] void lost_the_output(const std::string& output) {
  const std::string line = fmt::format(
      "neuronmoe: error: {} was taken over by another run, because this one showed no sign of life; it "
      "ends here and leaves everything to the other\n",
      output);
  std::fwrite(line.data(), 1, line.size(), stderr);
  _exit(exit_code(ErrorCode::config));
}

}  // namespace

OutputClaim::OutputClaim(comm::ExecutionContext& context, OutputKind kind, const std::string& output,
                         std::string option)
    : option_(std::move(option)) {
  if (kind == OutputKind::none || output.empty()) return;
  comm::agree(context.world, [&] {
    if (context.world.rank() == 0) claim(context, kind, output);
  });
  context.heartbeat.owns_output = true;
}

void OutputClaim::claim(comm::ExecutionContext& context, OutputKind kind, const std::string& output) {
  const fs::file_type type = type_of(option_, output);
  if (kind == OutputKind::file)
    NMOE_CHECK(type != fs::file_type::directory && !output.ends_with('/'), config,
               "{} {} is a directory; name the file to write", option_, output);
  else
    NMOE_CHECK(type == fs::file_type::directory || type == fs::file_type::not_found, config,
               "{} {} is a file; name a directory", option_, output);
  fs::path path = fs::absolute(output).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  make_directories(option_, kind == OutputKind::run ? path.string() : path.parent_path().string(), made_);
  io::require_free_space(path.string(), least_free_bytes);
  // In a directory that is filled step by step; beside what appears by a rename.
  const std::string lock = kind == OutputKind::run ? (path / ".lock").string() : path.string() + ".lock";
  const BatchJob job = batch_job();
  lock_ = std::make_unique<io::OutputLock>(
      lock, output, io::lock_owner_of_this_process(host_name(), job.id, job.restart), io::LockTimes{},
      [&](const std::string& message) { context.log.warn("{}", message); },
      [output] { lost_the_output(output); });
  std::error_code ignored;  // why an earlier run ended is not why this one does
  if (kind == OutputKind::run) {
    fs::remove(path / exit_file_name, ignored);
    end_the_roll(path.string());
  }
}

OutputClaim::~OutputClaim() {
  lock_.reset();
  std::error_code not_empty;
  for (auto directory = made_.rbegin(); directory != made_.rend(); ++directory)
    fs::remove(*directory, not_empty);
}

}  // namespace nmoe::app

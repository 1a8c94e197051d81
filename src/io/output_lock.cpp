// Lock files with a heartbeat: made by exclusive creation, judged by process, batch job and age.
#include "neuronmoe/io/output_lock.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::io {
namespace {

using Descriptor = Handle<int, ::close, -1>;
using Seconds = std::chrono::duration<double>;

/// Returns "BOOT pid:[NAMESPACE]": processes with an equal one see each other's numbers.
std::string process_space() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::array<char, 64> space{};
  const ssize_t n = ::readlink("/proc/self/ns/pid", space.data(), space.size() - 1);
  return boot.empty() || n < 0 ? "" : boot + " " + space.data();
}

/// Returns the start time of a process in clock ticks since boot, "" if there is no such process or it is a
/// zombie.
std::string start_time(long long pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto name_end = text.rfind(')');  // a name may hold blanks
  if (name_end == std::string::npos) return "";
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  for (int number = 3; fields >> field; ++number) {  // proc(5): the field after the name is the third
    if (number == 3 && (field == "Z" || field == "X")) return "";
    if (number == 22) return field;
  }
  return "";
}

struct Found {
  std::string content;
  LockOwner owner;
  timespec modified{};
};

/// The lock as it is now; nothing if there is none. Opening it makes a network file system ask its server.
std::optional<Found> look_at(const std::string& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd && errno == ENOENT) return std::nullopt;
  struct stat info {};
  std::array<char, 4096> bytes{};
  if (!fd || ::fstat(fd.get(), &info) != 0) fail_read(path, errno);
  const ssize_t n = ::read(fd.get(), bytes.data(), bytes.size());
  if (n < 0) fail_read(path, errno);
  Found found;
  found.content.assign(bytes.data(), static_cast<std::size_t>(n));
  found.modified = info.st_mtim;
  const auto json = nlohmann::json::parse(found.content, nullptr, false);
  const auto text = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>()
                                                                           : "";
  };
  found.owner = {text("host"), text("job"), text("restart"), 0, text("process")};
  if (json.is_object() && json.contains("pid") && json["pid"].is_number_integer())
    found.owner.pid = json["pid"].get<long long>();
  return found;
}

std::string to_text(const LockOwner& o) {
  const nlohmann::ordered_json json = {{"host", o.host},       {"pid", o.pid},
                                       {"job", o.job},         {"restart", o.restart},
                                       {"process", o.process}, {"format", "neuronmoe-lock"}};
  return json.dump() + "\n";
}

std::string name_of(const LockOwner& o) {
  return fmt::format("process {} on {}{}", o.pid, o.host.empty() ? "an unknown host" : o.host,
                     o.job.empty() ? "" : ", job " + o.job);
}

/// Writes a file that must not be there yet. Returns false if it is.
bool create(const std::string& path, const std::string& content) {
  const Descriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd && errno == EEXIST) return false;
  if (!fd) fail_write(path, errno);
  if (::write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) {
    const int error = errno;
    ::unlink(path.c_str());
    fail_write(path, error);
  }
  return true;
}

/// Now, by the clock that stamps files here: that of the file server need not be this machine's.
timespec server_time(const std::string& lock, long long pid) {
  const std::string path = fmt::format("{}.clock{}", lock, pid);
  ::unlink(path.c_str());
  create(path, "now\n");
  struct stat info {};
  const int result = ::stat(path.c_str(), &info);
  const int error = errno;
  ::unlink(path.c_str());
  if (result != 0) fail_read(path, error);
  return info.st_mtim;
}

double seconds_between(timespec from, timespec to) {
  return static_cast<double>(to.tv_sec - from.tv_sec) + 1e-9 * static_cast<double>(to.tv_nsec - from.tv_nsec);
}

enum class Holder { alive, gone, unknown };

/// What can be told of the holder without waiting.
Holder judge(const LockOwner& holder, const LockOwner& mine) {
  const auto space_of = [](const LockOwner& o) { return o.process.substr(0, o.process.rfind(' ')); };
  if (!holder.process.empty() && space_of(holder) == space_of(mine)) {
    const std::string started = start_time(holder.pid);
    const bool same = !started.empty() && holder.process == space_of(holder) + " " + started;
    return same ? Holder::alive : Holder::gone;
  }
  const bool earlier_start = !holder.job.empty() && holder.job == mine.job && holder.restart != mine.restart;
  return earlier_start ? Holder::gone : Holder::unknown;
}

/// Takes the lock file away if it still is the one that was judged. Atomic: of two that try, one succeeds.
void remove_judged(const std::string& path, const std::string& content, long long pid) {
  const std::string away = fmt::format("{}.gone{}", path, pid);
  if (::rename(path.c_str(), away.c_str()) != 0) return;  // somebody else was faster
  const auto moved = look_at(away);
  if (moved && moved->content != content) {
    if (::link(away.c_str(), path.c_str()) != 0 && errno != EEXIST) ::rename(away.c_str(), path.c_str());
  }
  ::unlink(away.c_str());
}

}  // namespace

LockOwner lock_owner_of_this_process(std::string host, std::string job, std::string restart) {
  LockOwner owner{std::move(host), std::move(job), std::move(restart), ::getpid(), ""};
  const std::string space = process_space(), started = start_time(owner.pid);
  if (!space.empty() && !started.empty()) owner.process = space + " " + started;
  return owner;
}

OutputLock::OutputLock(std::string path, std::string output, const LockOwner& owner, LockTimes times,
                       const Warn& warn, std::function<void()> lost)
    : path_(std::move(path)), output_(std::move(output)), content_(to_text(owner)), times_(times) {
  acquire(owner, warn);
  thread_ = std::thread([this, lost = std::move(lost)] { beat(lost); });
}

OutputLock::~OutputLock() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  try {
    const auto found = look_at(path_);
    if (found && found->content == content_) ::unlink(path_.c_str());
  } catch (const Error&) {  // a file system that is gone: the lock will be found stale
    return;
  }
}

void OutputLock::acquire(const LockOwner& owner, const Warn& warn) {
  constexpr int beats_until_doubt = 3;
  while (!create(path_, content_)) {
    const auto found = look_at(path_);
    if (!found) continue;  // released a moment ago
    const Holder holder = judge(found->owner, owner);
    const double age =
        holder == Holder::unknown ? seconds_between(found->modified, server_time(path_, owner.pid)) : 0;
    const bool beats = holder == Holder::unknown && age < beats_until_doubt * times_.beat.count();
    NMOE_CHECK(
        holder != Holder::alive && !beats, config,
        "{} is being written by {}; wait for it or choose another --output{}", output_, name_of(found->owner),
        beats ? fmt::format(" (last sign of life {:.0f} s ago; {} is taken over after {:.0f} s without one)",
                            age, path_, times_.stale.count())
              : fmt::format(" ({})", path_));
    if (holder == Holder::unknown && age < times_.stale.count()) {
      std::this_thread::sleep_for(times_.beat);
      continue;
    }
    if (holder == Holder::unknown)
      warn(fmt::format("{}: taken over from {}, which has shown no sign of life for {:.0f} s", path_,
                       name_of(found->owner), age));
    else
      warn(fmt::format("{}: taken over from {}, which has ended", path_, name_of(found->owner)));
    remove_judged(path_, found->content, owner.pid);
  }
}

void OutputLock::beat(const std::function<void()>& lost) {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, times_.beat, [&] { return stop_; })) {
    lock.unlock();
    bool mine = true;
    try {
      const auto found = look_at(path_);
      if (!found) create(path_, content_);  // removed by hand
      mine = !found || found->content == content_;
      if (mine) ::utimensat(AT_FDCWD, path_.c_str(), nullptr, 0);
    } catch (const Error&) {  // cannot be read for now: not a sign of another writer
      mine = true;
    }
    if (!mine) return lost();
    lock.lock();
  }
}

}  // namespace nmoe::io

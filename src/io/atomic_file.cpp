// Small files written beside their name and renamed, and the free space of a file system.
#include "neuronmoe/io/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/regular_file.hpp"

namespace nmoe::io {
namespace {

constexpr const char* not_regular = "{} is not a regular file: directories, pipes and devices are not read";

[[noreturn]] void fail_system(const char* what, const std::string& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  const char* const remedy = error == ENOSPC   ? "; free space or choose another --output"
                             : error == EDQUOT ? "; free some of your quota or choose another --output"
                                               : "";
  throw Error(full ? ErrorCode::no_space : ErrorCode::io,
              fmt::format("cannot {} {}: {}{}", what, path, std::strerror(error), remedy));
}

/// Facts of the file system of `path`, or of its nearest existing parent.
struct statvfs file_system_of(const std::string& path) {
  std::filesystem::path place = std::filesystem::absolute(path);
  struct statvfs info {};
  while (::statvfs(place.c_str(), &info) != 0) {
    if (!place.has_relative_path()) fail_system("ask for free space on", path, errno);
    place = place.parent_path();
  }
  return info;
}

std::string parent_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

void write_all(const std::string& path, const std::function<void(const ByteSink&)>& fill) {
  Descriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) fail_system("create", path, errno);
  fill([&](std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_system("write", path, errno);
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
  });
  if (::fsync(fd.get()) != 0) fail_system("fsync", path, errno);
  if (::close(fd.release()) != 0) fail_system("close", path, errno);
}

}  // namespace

void fail_write(const std::string& path, int error) {
  fail_system("write", path, error);
}

void fail_read(const std::string& path, int error) {
  // What is not there, or not what it should be, is what the user can fix; the rest may be readable again
  // later.
  const bool wrong_path = error == ENOENT || error == ENOTDIR || error == EISDIR || error == ELOOP ||
                          error == ENAMETOOLONG || error == ENXIO;
  throw Error(wrong_path ? ErrorCode::bad_data : ErrorCode::io,
              fmt::format("cannot read {}: {}", path, std::strerror(error)));
}

void write_file_atomically(const std::string& path, std::string_view bytes) {
  write_file_atomically(path, [&](const ByteSink& sink) { sink(bytes); });
}

void write_file_atomically(const std::string& path, const std::function<void(const ByteSink&)>& fill) {
  const std::string tmp = path + ".tmp";
  try {
    write_all(tmp, fill);
    rename_durably(tmp, path);
  } catch (...) {
    ::unlink(tmp.c_str());
    throw;
  }
}

Descriptor open_regular(const std::string& path) {
  static_cast<void>(file_size_bytes(path));
  // Should it become a pipe in this moment, the open returns at once and the second look sees it.
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) fail_read(path, errno);
  struct stat info {};
  NMOE_CHECK(::fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode), bad_data, not_regular, path);
  return fd;
}

std::string read_file(const std::string& path, std::int64_t max_bytes) {
  const Descriptor fd = open_regular(path);
  struct stat info {};
  NMOE_CHECK(::fstat(fd.get(), &info) == 0, bad_data, "cannot read {}: {}", path, std::strerror(errno));
  NMOE_CHECK(info.st_size <= max_bytes, bad_data, "{} has {} bytes; at most {} are read", path, info.st_size,
             max_bytes);
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_read(path, errno);
    NMOE_CHECK(n > 0, bad_data, "{} ends after {} of {} bytes: it was truncated while being read", path, done,
               bytes.size());
    done += static_cast<std::size_t>(n);
  }
  require_no_lfs_pointer(path, bytes);
  return bytes;
}

void require_no_lfs_pointer(const std::string& path, std::string_view bytes) {
  NMOE_CHECK(!bytes.starts_with("version https://git-lfs.github.com/spec/"), bad_data,
             "{}: this is a Git LFS pointer, not the file itself; fetch it: git lfs pull", path);
}

std::int64_t file_size_bytes(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) fail_read(path, errno);
  NMOE_CHECK(S_ISREG(info.st_mode), bad_data, not_regular, path);
  return info.st_size;
}

std::int64_t free_space_bytes(const std::string& path) {
  const struct statvfs info = file_system_of(path);
  return static_cast<std::int64_t>(info.f_bavail) * static_cast<std::int64_t>(info.f_frsize);
}

bool is_full(const std::string& path) {
  constexpr std::int64_t hardly_any = 65536;
  return file_system_of(path).f_blocks > 0 && free_space_bytes(path) < hardly_any;
}

void require_free_space(const std::string& path, std::int64_t num_bytes) {
  const std::int64_t free = free_space_bytes(path);
  NMOE_CHECK(free >= num_bytes, no_space,
             "{}: {} bytes are to be written but {} are free; free space or choose another --output", path,
             num_bytes, free);
}

void create_empty_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) fail_system("create", path, errno);
  if (::close(fd) != 0) fail_system("close", path, errno);
}

void sync_path(const std::string& path) {
  FileSync(path).finish();
}

FileSync::FileSync(std::string path)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (!descriptor_) fail_system("open", path_, errno);
}

void FileSync::start(std::int64_t begin, std::int64_t num_bytes) const {
  constexpr unsigned wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (::sync_file_range(descriptor_.get(), begin, num_bytes, wait) != 0 &&
      (errno == EIO || errno == ENOSPC || errno == EDQUOT))
    fail_system("write", path_, errno);
}

void FileSync::finish() const {
  if (::fsync(descriptor_.get()) != 0) fail_system("fsync", path_, errno);
}

void rename_durably(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_system("rename to", to, errno);
  sync_path(parent_of(to));
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail_system("make directory", path, error.value());
}

}  // namespace nmoe::io

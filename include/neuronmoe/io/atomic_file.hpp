#pragma once
// Small files that appear whole or not at all, and the free-space question asked before large ones. Used by
// every command that writes. Not collective: in a parallel program rank 0 calls it, inside comm::agree.
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "neuronmoe/base/handle.hpp"

namespace nmoe::io {

/// Writes PATH.tmp, fsyncs, renames over PATH, fsyncs the directory. On failure PATH is as before and
/// PATH.tmp is gone. @throws Error(no_space) on a full disk, Error(io) otherwise; both name the path.
void write_file_atomically(const std::string& path, std::string_view bytes);
/// Appends bytes to a file that is being written.
using ByteSink = std::function<void(std::string_view bytes)>;
/// Writes in pieces: `fill` hands them to the sink one after another. What it throws leaves PATH as before.
void write_file_atomically(const std::string& path, const std::function<void(const ByteSink&)>& fill);
/// Throws Error(no_space|io) for an errno of creating or writing a file.
[[noreturn]] void fail_write(const std::string& path, int error);
/// Throws for an errno of opening or reading: Error(bad_data) if the path is wrong, Error(io) if the file
/// cannot be read for now (permission, EIO, a stale handle).
[[noreturn]] void fail_read(const std::string& path, int error);
/// Returns the whole file. @throws Error(bad_data) if it is missing or larger than `max_bytes`, Error(io) as
/// fail_read.
std::string read_file(const std::string& path, std::int64_t max_bytes = std::int64_t{1} << 30);
/// Demands that a file which begins with `bytes` be no Git LFS pointer, the few lines that stand where a file
/// is that was not fetched. @throws Error(bad_data) with the remedy
void require_no_lfs_pointer(const std::string& path, std::string_view bytes);
std::int64_t file_size_bytes(const std::string& path);
/// Returns the bytes a user without privileges may still write on the file system of `path` (or of its
/// nearest existing parent).
std::int64_t free_space_bytes(const std::string& path);
/// Says whether the file system of `path` has hardly any room left. One without blocks of its own (/proc) is
/// not full.
bool is_full(const std::string& path);
/// Throws Error(no_space) naming path, both numbers and the remedy if less than `num_bytes` is free.
void require_free_space(const std::string& path, std::int64_t num_bytes);
/// Makes `path` an empty file, also where it was one with content. @throws Error(io|no_space)
void create_empty_file(const std::string& path);
/// Syncs a file or directory (fsync) through this process's own descriptor. @throws Error(io|no_space)
void sync_path(const std::string& path);
/// Syncs a file through a descriptor that is opened before it is written: the kernel then reports every write
/// to the device that fails in between, also one that a close elsewhere was told of and did not pass on.
class FileSync {
 public:
  FileSync() = default;  ///< of no file
  /// @throws Error(io|no_space) if `path` cannot be opened
  explicit FileSync(std::string path);
  /// Writes bytes [begin, begin + num_bytes) from the page cache to the device and waits for them. A hint:
  /// finish() must follow. A file system that cannot do it is no error. @throws Error(io|no_space)
  void start(std::int64_t begin, std::int64_t num_bytes) const;
  /// Syncs the file (fsync). @throws Error(io|no_space)
  void finish() const;

 private:
  std::string path_;
  Handle<int, ::close, -1> descriptor_;
};
/// Renames a file and syncs its directory. @throws Error(io)
void rename_durably(const std::string& from, const std::string& to);
/// Makes a directory and its parents where they are missing. @throws Error(io)
void make_directories(const std::string& path);

}  // namespace nmoe::io

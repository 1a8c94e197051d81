// Wrappers of MPI-IO (profiling interface) and the thread that ends a job that hangs behind a failure.
#include "mpi_io_watch.hpp"

#include <mpi.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::io {
namespace {

/// How long HDF5 may take to return after a failure: it does so at once, or never.
constexpr std::chrono::seconds patience{3};

struct State {
  std::mutex mutex;
  MpiIoFailureHandler handler;
  std::string path;  // of the open scope
  std::uint64_t scope = 0;
  bool inside = false, failed = false;
  int error = 0;
};

/// The wrappers get no argument of ours: the one process-wide state of this layer.
State& state() {
  static State the_state;
  return the_state;
}

void wait_for_return(std::uint64_t scope) {
  std::this_thread::sleep_for(patience);
  MpiIoFailureHandler handler;
  std::string path;
  int number = 0;
  {
    const std::lock_guard lock(state().mutex);
    if (!state().inside || state().scope != scope) return;
    handler = state().handler;
    path = state().path;
    number = state().error;
  }
  try {
    fail_write(path, number == 0 ? EIO : number);
  } catch (const Error& error) {
    if (handler) handler(error);
  }
}

void note_failure(int number) {
  const std::lock_guard lock(state().mutex);
  if (!state().inside || state().failed) return;
  state().failed = true;
  state().error = number;
  std::thread(wait_for_return, state().scope).detach();
}

/// Calls MPI and notes a failure with the errno that the file system left.
template <typename Call>
int watched(Call&& call) {
  errno = 0;
  const int result = call();
  if (result != MPI_SUCCESS) note_failure(errno);
  return result;
}

bool is_inside() {
  const std::lock_guard lock(state().mutex);
  return state().inside;
}

}  // namespace

MpiIoScope::MpiIoScope(const std::string& path) {
  const std::lock_guard lock(state().mutex);
  state().path = path;
  state().inside = true;
  state().failed = false;
  state().error = 0;
  ++state().scope;
}

MpiIoScope::~MpiIoScope() {
  const std::lock_guard lock(state().mutex);
  state().inside = false;
}

int mpi_io_errno() {
  const std::lock_guard lock(state().mutex);
  return state().inside && state().failed ? state().error : 0;
}

void on_mpi_io_failure(MpiIoFailureHandler handler) {
  const std::lock_guard lock(state().mutex);
  state().handler = std::move(handler);
}

}  // namespace nmoe::io

// NOLINTBEGIN(readability-identifier-naming): MPI's names
extern "C" {

/// A file that is made in a scope is there already. To make it, ROMIO opens and closes it on one rank, and if
/// that close fails the ranks part inside this function.
int MPI_File_open(MPI_Comm comm, const char* path, int mode, MPI_Info info, MPI_File* file) {
  const int wanted = nmoe::io::is_inside() ? mode & ~MPI_MODE_CREATE : mode;
  return nmoe::io::watched([&] { return PMPI_File_open(comm, path, wanted, info, file); });
}

int MPI_File_write_at(MPI_File file, MPI_Offset at, const void* data, int count, MPI_Datatype type,
                      MPI_Status* status) {
  return nmoe::io::watched([&] { return PMPI_File_write_at(file, at, data, count, type, status); });
}

int MPI_File_write_at_all(MPI_File file, MPI_Offset at, const void* data, int count, MPI_Datatype type,
                          MPI_Status* status) {
  return nmoe::io::watched([&] { return PMPI_File_write_at_all(file, at, data, count, type, status); });
}

int MPI_File_read_at(MPI_File file, MPI_Offset at, void* data, int count, MPI_Datatype type,
                     MPI_Status* status) {
  return nmoe::io::watched([&] { return PMPI_File_read_at(file, at, data, count, type, status); });
}

int MPI_File_read_at_all(MPI_File file, MPI_Offset at, void* data, int count, MPI_Datatype type,
                         MPI_Status* status) {
  return nmoe::io::watched([&] { return PMPI_File_read_at_all(file, at, data, count, type, status); });
}

int MPI_File_set_size(MPI_File file, MPI_Offset size) {
  return nmoe::io::watched([&] { return PMPI_File_set_size(file, size); });
}

int MPI_File_sync(MPI_File file) {
  return nmoe::io::watched([&] { return PMPI_File_sync(file); });
}

int MPI_File_close(MPI_File* file) {
  return nmoe::io::watched([&] { return PMPI_File_close(file); });
}

}  // extern "C"
// NOLINTEND(readability-identifier-naming)

#pragma once
// What the MPI library says about itself, for `check`.
#include <string>
#include <vector>

namespace nmoe::app {

/// "Open MPI v4.1.4 (MPI 3.1)"; before MPI_Init, too.
std::string mpi_library_text();
/// The same with the thread level: "Open MPI v4.1.4 (MPI 3.1, thread level 2)"
std::string mpi_version_text();
/// Which MPI-IO a file goes through.
struct MpiIo {
  bool opened = false;
  std::string component;  ///< "romio321", in words if the library does not say, why if it was not opened
};
/// Finds out by a file made at `path` and removed again. Collective over MPI_COMM_WORLD.
MpiIo mpi_io_of(const std::string& path);

/// How far a rank's clock (of the day) is ahead of rank 0's, and how long a message took there and back: the
/// offset is known to half of that.
struct ClockOffset {
  double seconds = 0.0, round_trip_s = 0.0;
};
/// Returns one per rank on rank 0, nothing elsewhere. Collective over MPI_COMM_WORLD.
std::vector<ClockOffset> clock_offsets();

/// This rank among those it shares memory with. SLURM_LOCALID is not asked: it is 0 on every rank under
/// mpirun inside an allocation (PLATFORM 0.6). Collective over MPI_COMM_WORLD.
struct NodeRank {
  int rank = 0, size = 1;
};
NodeRank rank_on_node();

}  // namespace nmoe::app

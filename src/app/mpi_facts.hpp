#pragma once
// What the MPI library says about itself, for `check`.
#include <string>

namespace nmoe::app {

/// "Open MPI v4.1.4 (MPI 3.1)"; before MPI_Init, too.
std::string mpi_library_text();
/// The same with the thread level: "Open MPI v4.1.4 (MPI 3.1, thread level 2)"
std::string mpi_version_text();
/// Which MPI-IO a file made at `path` (and removed again) goes through, and a warning if it is one that
/// reports success on a full disk. Collective over MPI_COMM_WORLD.
std::string mpi_io_text(const std::string& path);

/// This rank among those it shares memory with. SLURM_LOCALID is not asked: it is 0 on every rank under
/// mpirun inside an allocation (PLATFORM 0.6). Collective over MPI_COMM_WORLD.
struct NodeRank {
  int rank = 0, size = 1;
};
NodeRank rank_on_node();

}  // namespace nmoe::app

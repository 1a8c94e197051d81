#pragma once
// The one place that starts MPI, makes the ExecutionContext and ends the job (ENGINEERING 3). main.cpp calls
// it with what to do; nothing below app sees MPI_COMM_WORLD, the environment or an exit code.
#include <functional>
#include <optional>
#include <string>

#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/comm/mpi_communicator.hpp"

namespace nmoe::app {

/// What the guard needs to know from the config before the work starts.
struct GuardOptions {
  std::optional<Device> device;  ///< nothing: a GPU if `computes` and every rank can have one, else the CPU
  bool computes = false;         ///< the work can use a GPU; in a job with GPUs it refuses the CPU by itself
  int threads = 0;               ///< 0 = OMP_NUM_THREADS, or the cores of the node divided by its ranks
  double watchdog_s = 600.0;     ///< 0 = no watchdog
  bool check_collectives = false;
  bool quiet = false;
  comm::OnNodeChoice on_node{comm::OnNode::mpi, {}};  ///< its reason is logged
  std::optional<comm::GpuTransport> gpu_transport;    ///< nothing: the guard's choice
  bool share_gpu = false;                             ///< several ranks may hold one GPU
  bool saves_on_signal = false;  ///< SIGUSR1/SIGTERM ask for a checkpoint; else they end the program as usual
  std::string exit_file;         ///< where a run that holds its output says why it ended; "" for nowhere
};

/// Runs on every rank. `configure` may use the communicator to agree on a config; what it throws is a config
/// error like any other.
using Configure = std::function<GuardOptions(comm::Communicator&)>;
/// Returns the exit code of its rank; the job ends with that of the lowest rank that did not return 0.
using Body = std::function<int(comm::ExecutionContext&)>;

/// Runs MPI_Init_thread, the singleton guard, `configure`, device and threads, the watchdog, `body`,
/// MPI_Finalize. Catches everything. If every rank comes to an end (well or not), rank 0 prints each distinct
/// error once and every rank returns the same code. If some rank does not come within 5 s of an error, the
/// failing one names itself and ends the job with MPI_Abort(code). Without progress for watchdog_s
/// (`start_timeout_s` until MPI has started; 0 switches it off) a rank says so, names the ranks that are
/// absent and ends with the watchdog's code.
int run_guarded(int* argc, char*** argv, double start_timeout_s, const Configure& configure,
                const Body& body);

/// Returns the rank that the launcher's environment gives this process, 0 if it gives none: who prints
/// --help.
int launcher_rank();

/// Returns "rank -> host, cores, device" for every rank and how GPUs reach each other. Collective.
std::string placement_table(comm::ExecutionContext& context);

}  // namespace nmoe::app

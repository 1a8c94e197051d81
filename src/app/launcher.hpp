#pragma once
// What the environment says about how the job was started. Nothing else reads the environment, but
// for what mpi_facts.cpp and nccl_log.cpp ask of their libraries' variables.
#include <string>

#include "neuronmoe/base/enum_names.hpp"

namespace nmoe::app {

/// Number of processes the launcher says it started, and which variable says so; 0 if none does.
struct LauncherHint {
  int num_processes = 0;
  std::string variable;
};
/// Returns what the environment says before MPI_Init, which adds variables of its own. Under mpirun only its
/// own count: a Slurm step around it may have another number of tasks.
LauncherHint launcher_hint();

/// What started this process.
enum class Launcher { none, mpirun, mpiexec, srun };
constexpr auto enum_names(Launcher) {
  return std::to_array<EnumName<Launcher>>({{Launcher::none, "no launcher"},
                                            {Launcher::mpirun, "mpirun of Open MPI"},
                                            {Launcher::mpiexec, "mpiexec"},
                                            {Launcher::srun, "srun"}});
}
/// Before MPI_Init or after. An mpirun inside a Slurm job counts as mpirun.
Launcher launcher();
/// Version of the PMIx that the launcher speaks, "" if it says none.
std::string pmix_version();

/// What to do, in options of the launcher at hand, so that a rank ...
/// ... may run on as many cores as it has threads.
std::string advice_on_cores(int threads);
/// ... sees all GPUs of its host, of which it takes the one of its number.
std::string advice_on_gpus();
/// ... runs on cores of one NUMA node, that of its GPU.
std::string advice_on_numa(int threads);
/// ... is part of one MPI job with the others.
std::string advice_on_start();

/// The batch job (Slurm) that this process is part of, and which start of it: "" without one.
struct BatchJob {
  std::string id, restart;
};
BatchJob batch_job();

/// Returns "NAME=value" of the variable that says that this process is part of a batch job with GPUs, "" if
/// none does. Slurm names them in variables of its own, other batch systems in CUDA_VISIBLE_DEVICES.
std::string gpus_of_job();

/// Whether a terminal, if there is one, can rewrite a line (TERM is not "dumb"), and whether its user leaves
/// colors on (NO_COLOR is not set, or empty).
bool terminal_is_able();
bool wants_colors();

/// Before MPI_Init: settings of Open MPI that must not be left to its defaults, unless the user set them.
void set_mpi_defaults();

/// Cores this process may run on, as "0-3,8", and their number.
std::string cores_text();
int num_cores();
/// Cores of the machine that are online.
int num_cores_online();
std::string host_name();
/// Returns the name that the batch system has for this host where it says so (Slurm's may be another than the
/// host's own), else host_name(): what a job excludes.
std::string node_name();
/// OMP_NUM_THREADS, 0 if it is not set.
int omp_num_threads();
/// "NAME=value" lines of every MPI, fabric and OpenMP variable that is set, for `check`.
std::string relevant_environment();

}  // namespace nmoe::app

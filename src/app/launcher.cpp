// Ranks, hosts, cores and threads as the environment and the system tell them.
#include "launcher.hpp"

#include <fmt/core.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string_view>
#include <vector>

#include "machine_facts.hpp"
#include "neuronmoe/app/run_guarded.hpp"

namespace nmoe::app {
namespace {

/// Value of a variable that should hold a number; `missing` if it is not set or does not.
int number_from(const char* variable, int missing) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return missing;
  int value = missing;
  const std::string_view view(text);
  const auto [stop, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  return error == std::errc() && stop == view.data() + view.size() ? value : missing;
}

/// Value of a variable, "" if it is not set.
std::string text_from(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr ? "" : value;
}

/// The variables that this process was started with.
std::map<std::string, std::string> first_environment() {
  std::map<std::string, std::string> variables;
  std::ifstream in("/proc/self/environ", std::ios::binary);
  for (std::string entry; std::getline(in, entry, '\0');) {
    const auto equals = entry.find('=');
    if (equals != std::string::npos) variables[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  return variables;
}

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(static_cast<unsigned>(core), &set)) cores.push_back(core);
  }
  return cores;
}

}  // namespace

LauncherHint launcher_hint() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const int size = number_from(variable, 0);
    if (size > 0) return {size, variable};
  }
  return {};
}

int launcher_rank() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    const int rank = number_from(variable, -1);
    if (rank >= 0) return rank;
  }
  return 0;
}

Launcher launcher() {
  // MPI_Init of a process without a launcher sets the variables of mpirun: what counts is what it began with.
  const std::map<std::string, std::string> given = first_environment();
  const auto set = [&](const char* variable) {
    return given.contains(variable) && !given.at(variable).empty();
  };
  if (set("PMIX_NAMESPACE") && given.at("PMIX_NAMESPACE").starts_with("slurm.")) return Launcher::srun;
  for (const char* variable : {"OMPI_COMMAND", "OMPI_MCA_orte_hnp_uri", "PRTE_LAUNCHED"})
    if (set(variable)) return Launcher::mpirun;
  for (const char* variable : {"HYDI_CONTROL_FD", "PALS_RANKID"})
    if (set(variable)) return Launcher::mpiexec;
  if (set("SLURM_STEP_ID") && set("SLURM_PROCID")) return Launcher::srun;
  if (set("OMPI_COMM_WORLD_SIZE")) return Launcher::mpirun;
  return set("PMI_SIZE") ? Launcher::mpiexec : Launcher::none;
}

std::string pmix_version() {
  return launcher() == Launcher::none ? "" : text_from("PMIX_VERSION");
}

std::string advice_on_cores(int threads) {
  switch (launcher()) {
    case Launcher::srun:
      return fmt::format("srun --cpus-per-task={} --cpu-bind=cores (since 22.05 srun does not inherit it)",
                         threads);
    case Launcher::mpirun:
      return fmt::format("mpirun --map-by slot:PE={} --bind-to core, or --bind-to none", threads);
    case Launcher::mpiexec:
      return fmt::format(
          "mpiexec with {} cores bound to a rank (-bind-to core:{}; --cpu-bind depth --depth {} "
          "with PALS)",
          threads, threads, threads);
    case Launcher::none:
      break;
  }
  return "a wider cgroup, container or taskset";
}

std::string advice_on_gpus() {
  return launcher() == Launcher::srun ? "srun --gpus-per-node=N --gpu-bind=none"
                                      : "CUDA_VISIBLE_DEVICES with all of them, or not set";
}

std::string advice_on_numa(int threads) {
  switch (launcher()) {
    case Launcher::srun:
      return fmt::format("srun --cpus-per-task={} --cpu-bind=cores --distribution=block:block", threads);
    case Launcher::mpirun:
      return "mpirun --map-by numa --bind-to numa";
    case Launcher::mpiexec:
      return "mpiexec -bind-to numa (--cpu-bind numa with PALS)";
    case Launcher::none:
      break;
  }
  return "numactl --cpunodebind=NODE --membind=NODE in front of the program";
}

std::string advice_on_start() {
  if (launcher() == Launcher::srun || text_from("SLURM_STEP_NUM_TASKS") != "")
    return "start with the srun --mpi of the MPI this program was built with (NMOE_MPI of launch/run.sh): "
           "--mpi=pmix for Open MPI, pmi2 for MPICH, cray_shasta for Cray MPICH";
  return "start with mpirun or mpiexec of the MPI this program was built with";
}

BatchJob batch_job() {
  return {text_from("SLURM_JOB_ID"), text_from("SLURM_RESTART_COUNT")};
}

std::string gpus_of_job() {
  constexpr std::array slurm{"SLURM_JOB_GPUS",      "SLURM_STEP_GPUS",     "SLURM_GPUS_ON_NODE",
                             "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS"};
  constexpr std::array jobs{"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"};
  const auto set = [](const char* variable) { return !text_from(variable).empty(); };
  if (std::none_of(jobs.begin(), jobs.end(), set)) return "";
  for (const char* variable : slurm) {
    const std::string value = text_from(variable);
    const bool counts = std::string_view(variable).starts_with("SLURM_GPUS");  // the others list indices
    if (!value.empty() && !(counts && value == "0")) return fmt::format("{}={}", variable, value);
  }
  const std::string visible = text_from("CUDA_VISIBLE_DEVICES");
  if (visible.empty() || visible == "-1" || visible == "NoDevFiles") return "";
  return "CUDA_VISIBLE_DEVICES=" + visible;
}

bool terminal_is_able() {
  const std::string kind = text_from("TERM");
  return !kind.empty() && kind != "dumb";
}
bool wants_colors() {
  return text_from("NO_COLOR").empty();
}

void set_mpi_defaults() {
  // Open MPI's own MPI-IO (ompio) reports success on a full disk; ROMIO has another name in every version, so
  // ompio is excluded instead of ROMIO named. Other MPIs ignore the variable.
  setenv("OMPI_MCA_io", "^ompio", 0);
}

std::string cores_text() {
  return ranges_text(allowed_cores());
}

int num_cores() {
  return std::max(1, static_cast<int>(allowed_cores().size()));
}
int num_cores_online() {
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown-host";
}

std::string node_name() {
  const std::string name = text_from("SLURMD_NODENAME");
  return name.empty() ? host_name() : name;
}

int omp_num_threads() {
  return std::max(0, number_from("OMP_NUM_THREADS", 0));
}

std::string relevant_environment() {
  // What the user or the site set; mpirun's own bookkeeping is left out.
  constexpr std::array wanted{"OMPI_MCA_", "PMIX_MCA_", "PRTE_MCA_", "OMP_",
                              "FI_",       "UCX_",      "NCCL_",     "CUDA_VISIBLE_DEVICES"};
  constexpr std::array internal{"OMPI_MCA_orte", "OMPI_MCA_ess",   "OMPI_MCA_initial",
                                "OMPI_MCA_pmix", "OMPI_MCA_shmem", "PMIX_MCA_mca_base"};
  std::vector<std::string> lines;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const auto begins = [&](const char* prefix) { return text.starts_with(prefix); };
    if (std::any_of(wanted.begin(), wanted.end(), begins) &&
        std::none_of(internal.begin(), internal.end(), begins)) {
      lines.emplace_back(text);
    }
  }
  std::sort(lines.begin(), lines.end());
  std::string all;
  for (const auto& line : lines) all += (all.empty() ? "" : "\n") + ("  " + line);
  return all;
}

}  // namespace nmoe::app

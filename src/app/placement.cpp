#include "placement.hpp"

#include <omp.h>

#include <algorithm>

#include "launcher.hpp"
#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::app {
namespace {

/// Number of ranks on this host and the sum of `value` over them. SLURM_LOCALID is not asked: it is 0 on
/// every rank under mpirun inside an allocation (PLATFORM 0.6).
struct NodeSum {
  int num_ranks = 0, sum = 0;
};
NodeSum sum_over_node(comm::Communicator& world, int value) {
  const std::string host = host_name();
  NodeSum result;
  for (const auto& text : comm::all_gather_strings(world, fmt::format("{} {}", value, host))) {
    const auto blank = text.find(' ');
    if (text.substr(blank + 1) != host) continue;
    ++result.num_ranks;
    result.sum += std::stoi(text.substr(0, blank));
  }
  return result;
}

}  // namespace

Device choose_device(const std::string& wanted, int num_ranks, const Logger& log) {
  const int visible = num_cuda_devices();
  if (wanted == "cuda") {
    NMOE_CHECK(visible > 0, config,
               "--device cuda: this process sees no CUDA device, or the program was built without CUDA; use "
               "--device cpu");
    NMOE_CHECK(
        num_ranks == 1, config,
        "--device cuda on {} ranks: tensors on GPUs do not travel between ranks in this version; run one "
        "rank or use --device cpu",
        num_ranks);
    const CudaDevice device = select_cuda_device(0);
    log.info("device: {}, {:.0f} GB, {}", device.name, static_cast<double>(device.memory_bytes) / 1e9,
             device.bus_id);
    return Device::cuda;
  }
  if (wanted == "auto") {
    log.info("device: cpu (auto{})", visible > 0 ? "; a CUDA device is visible, --device cuda takes it" : "");
  }
  return Device::cpu;
}

void choose_threads(comm::Communicator& world, int wanted, const Logger& log) {
  const int online = num_cores_online(), mine = num_cores();
  const int num_ranks = sum_over_node(world, 1).num_ranks;
  // Bound ranks have their cores to themselves, unbound ones share the node.
  const int share = std::max(1, mine < online ? mine : online / num_ranks);
  const int threads = wanted > 0 ? wanted : omp_num_threads() > 0 ? omp_num_threads() : share;
  omp_set_num_threads(threads);
  const int total = sum_over_node(world, threads).sum;
  if (threads > mine) {
    log.warn("{} threads on {} cores ({}); bind less tightly (mpirun --bind-to none) or use fewer threads",
             threads, mine, cores_text());
  } else if (total > online && log.rank() == 0) {
    log.warn("{} ranks with {} threads in all on the {} cores of {}: expect waiting", num_ranks, total,
             online, host_name());
  }
}

std::string placement_table(comm::ExecutionContext& context) {
  const std::string mine =
      fmt::format("  rank {:>4}  {:<20} cores {:<12} threads {:<4} device {}", context.world.rank(),
                  host_name(), cores_text(), omp_get_max_threads(), name_of(context.device));
  std::string table;
  for (const auto& line : comm::all_gather_strings(context.world, mine)) table += line + "\n";
  return table;
}

}  // namespace nmoe::app

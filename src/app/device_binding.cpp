// Device, way between GPUs and threads of each rank.
#include "device_binding.hpp"

#include <omp.h>

#include <algorithm>

#include "launcher.hpp"
#include "mpi_facts.hpp"
#include "neuronmoe/app/config.hpp"
#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/ops/gpu_libraries.hpp"
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

/// Which GPU this rank holds, in words that are equal only if it is the same one.
std::string gpu_seat() {
  const CudaDevice device = current_cuda_device();
  return fmt::format("{} ({:.0f} GB) at {} on {}, {}", device.name,
                     static_cast<double>(device.memory_bytes) / 1e9, device.bus_id, host_name(), device.uuid);
}
/// The whole card, which instances of a partitioned GPU share: NCCL tells GPUs apart by it.
std::string gpu_card() {
  return fmt::format("{} on {}", current_cuda_device().bus_id, host_name());
}
std::size_t first_of(const std::vector<std::string>& seats, const std::string& seat) {
  return static_cast<std::size_t>(std::find(seats.begin(), seats.end(), seat) - seats.begin());
}

}  // namespace

Device choose_device(comm::Communicator& world, const GuardOptions& options, const Logger& log) {
  const int visible = num_cuda_devices();
  if (!options.device)
    log.info("device: cpu (auto{})", visible > 0 ? "; a CUDA device is visible, --device cuda takes it" : "");
  if (options.device != Device::cuda) return Device::cpu;
  world.drain();  // MPI is asked directly
  const int local_rank = rank_on_node().rank;
  comm::agree(world, [&] {
    NMOE_CHECK(visible > 0, config, "--device cuda: {}; use --device cpu", why_no_cuda_device());
    // One visible: the launcher has chosen (--gpus-per-task, cgroups). All visible on every rank: ours to do.
    select_cuda_device(visible == 1 ? 0 : local_rank % visible);
    ops::require_gpu_libraries();
  });
  const std::vector<std::string> seats = comm::all_gather_strings(world, gpu_seat());
  for (std::size_t r = 0; r < seats.size(); ++r) {
    const std::size_t first = first_of(seats, seats[r]);
    NMOE_CHECK(first == r || options.share_gpu, config,
               "ranks {} and {} both hold {}; start one rank per GPU (srun --gpus-per-task=1) or let them "
               "share it with --comm.share_gpu true",
               first, r, seats[r]);
    if (seats.size() > 1 && r < 16) log.info("device of rank {}: {}", r, seats[r]);
  }
  if (seats.size() == 1) log.info("device: {}", seats[0]);
  if (seats.size() > 16) log.info("and of {} more ranks, one each", seats.size() - 16);
  return Device::cuda;
}

namespace {

/// Why some rank cannot use NCCL, naming the first; "" if all can. Collective.
std::string why_not_all_have_nccl(comm::Communicator& world) {
  const std::vector<std::string> reasons = comm::all_gather_strings(world, comm::why_no_nccl());
  for (std::size_t r = 0; r < reasons.size(); ++r)
    if (!reasons[r].empty()) return fmt::format("rank {}: {}", r, reasons[r]);
  return "";
}

/// Without a wish it is NCCL where that is possible; where it is not, `log` says why.
comm::GpuTransport choose_gpu_transport(comm::Communicator& world, const GuardOptions& options,
                                        const Logger& log) {
  using comm::GpuTransport;
  const std::optional<GpuTransport> wanted = options.gpu_transport;
  // One rank has nobody to talk to.
  const bool useful = wanted ? *wanted == GpuTransport::nccl : world.size() > 1;
  const std::string missing = useful ? why_not_all_have_nccl(world) : "";
  NMOE_CHECK(wanted != GpuTransport::nccl || missing.empty(), config, "comm.gpu_transport = nccl: {}",
             missing);
  const std::vector<std::string> cards = comm::all_gather_strings(world, gpu_card());
  bool shared = false;
  for (std::size_t r = 0; r < cards.size(); ++r) shared = shared || first_of(cards, cards[r]) != r;
  NMOE_CHECK(wanted != GpuTransport::nccl || !shared, config,
             "comm.gpu_transport = nccl: NCCL refuses several "
             "ranks on one GPU (comm.share_gpu, or instances of a partitioned GPU); use auto or host");
  if (wanted) return *wanted;
  if (!useful || shared) return GpuTransport::host;
  if (!missing.empty()) log.warn("tensors on GPUs travel through host memory, not by NCCL: {}", missing);
  return missing.empty() ? GpuTransport::nccl : GpuTransport::host;
}

}  // namespace

std::unique_ptr<comm::Communicator> make_gpu_world(std::unique_ptr<comm::Communicator> world,
                                                   const GuardOptions& options, const Logger& log) {
  if (choose_gpu_transport(*world, options, log) == comm::GpuTransport::nccl) {
    comm::NcclOptions nccl;
    nccl.debug_checks = options.check_collectives;
    nccl.timeout_s = options.watchdog_s;
    world = comm::make_nccl_communicator(std::move(world), nccl);
  } else {
    world = comm::make_host_copy_communicator(std::move(world));
  }
  if (world->size() > 1) log.info("between GPUs: {}", world->gpu_transport());
  return world;
}

void choose_threads(comm::Communicator& world, int wanted, const Logger& log) {
  const int online = num_cores_online(), mine = num_cores();
  const int num_ranks = sum_over_node(world, 1).num_ranks;
  // Bound ranks have their cores to themselves, unbound ones share the node.
  const int share = std::max(1, mine < online ? mine : online / num_ranks);
  const int threads = wanted > 0 ? wanted : omp_num_threads() > 0 ? omp_num_threads() : share;
  comm::agree(world, [&] {
    NMOE_CHECK(threads <= max_threads, config, "OMP_NUM_THREADS = {}; a rank takes {} threads at most",
               threads, max_threads);
  });
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
  const std::string mine = fmt::format("  rank {:>4}  {:<20} cores {:<12} threads {:<4} device {}",
                                       context.world.rank(), host_name(), cores_text(), omp_get_max_threads(),
                                       context.device == Device::cuda ? gpu_seat() : name_of(context.device));
  std::string table;
  for (const auto& line : comm::all_gather_strings(context.world, mine)) table += line + "\n";
  if (context.device == Device::cuda)
    table += fmt::format("  between GPUs: {}\n", context.world.gpu_transport());
  return table;
}

}  // namespace nmoe::app

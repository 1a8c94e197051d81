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

/// The first rank's reason that is not empty, with its rank and host unless all have the same; "" if there is
/// none. Collective.
std::string first_reason(comm::Communicator& world, const std::string& mine) {
  const std::vector<std::string> reasons = comm::all_gather_strings(world, mine);
  if (std::all_of(reasons.begin(), reasons.end(), [&](const auto& r) { return r == reasons.front(); }))
    return mine;
  const std::vector<std::string> hosts = comm::all_gather_strings(world, host_name());
  const auto first = std::find_if(reasons.begin(), reasons.end(), [](const auto& r) { return !r.empty(); });
  const auto rank = static_cast<std::size_t>(first - reasons.begin());
  return fmt::format("rank {} ({}): {}", rank, hosts[rank], *first);
}

/// Seats each rank on a GPU. Returns why some rank has none, or none to itself, "" if all have; the same on
/// every rank. `seats` becomes what each rank holds. Collective.
std::string why_not_on_gpus(comm::Communicator& world, bool share_gpu, std::vector<std::string>& seats) {
  const int visible = num_cuda_devices();
  std::string reason = first_reason(world, visible > 0 ? "" : why_no_cuda_device());
  if (!reason.empty()) return reason;
  world.drain();  // MPI is asked directly
  const int local_rank = rank_on_node().rank;
  std::string mine;
  try {
    // One visible: the launcher has chosen (--gpus-per-task, cgroups). All visible on every rank: ours to do.
    select_cuda_device(visible == 1 ? 0 : local_rank % visible);
    ops::require_gpu_libraries();
  } catch (const Error& error) {
    mine = error.what();
  }
  reason = first_reason(world, mine);
  if (!reason.empty()) return reason;
  seats = comm::all_gather_strings(world, gpu_seat());
  for (std::size_t r = 0; r < seats.size() && !share_gpu; ++r) {
    const std::size_t first = first_of(seats, seats[r]);
    if (first != r)
      return fmt::format(
          "ranks {} and {} both hold {}; start as many ranks on a node as it has GPUs or let them share it "
          "with --comm.share_gpu true",
          first, r, seats[r]);
  }
  return "";
}

}  // namespace

Device choose_device(comm::Communicator& world, const GuardOptions& options, const Logger& log) {
  if (options.device == Device::cpu || (!options.device && !options.computes)) return Device::cpu;
  std::vector<std::string> seats;
  const std::string reason = why_not_on_gpus(world, options.share_gpu, seats);
  if (!reason.empty()) {
    NMOE_CHECK(!options.device, config, "--device cuda: {}; or use --device cpu", reason);
    const std::string gpus = first_reason(world, gpus_of_job());
    NMOE_CHECK(gpus.empty(), config, "this job has GPUs ({}), but {}; --device cpu insists on the CPU", gpus,
               reason);
    log.info("device: cpu (auto: {})", reason);
    return Device::cpu;
  }
  for (std::size_t r = 0; r < seats.size() && r < 16; ++r) {
    if (seats.size() > 1) log.info("device of rank {}: {}", r, seats[r]);
  }
  if (seats.size() == 1) log.info("device: {}", seats[0]);
  if (seats.size() > 16) log.info("and of {} more ranks, one each", seats.size() - 16);
  return Device::cuda;
}

namespace {

/// Without a wish it is NCCL where that is possible; where it is not, `log` says why.
comm::GpuTransport choose_gpu_transport(comm::Communicator& world, const GuardOptions& options,
                                        const Logger& log) {
  using comm::GpuTransport;
  const std::optional<GpuTransport> wanted = options.gpu_transport;
  // One rank has nobody to talk to.
  const bool useful = wanted ? *wanted == GpuTransport::nccl : world.size() > 1;
  const std::string missing = useful ? first_reason(world, comm::why_no_nccl()) : "";
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
    log.warn("{} threads on {} cores ({}); use fewer threads or {}", threads, mine, cores_text(),
             advice_on_cores(threads));
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

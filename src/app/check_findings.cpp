// Facts of all ranks gathered, and judged on rank 0.
#include "check_findings.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "launcher.hpp"
#include "machine_facts.hpp"
#include "mpi_facts.hpp"
#include "nccl_log.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_ranks_named = 16;

std::string counted(std::size_t number, std::string_view unit) {
  return fmt::format("{} {}{}", number, unit, number == 1 ? "" : "s");
}

std::vector<nlohmann::json> gather(comm::ExecutionContext& context, const nlohmann::json& mine) {
  std::vector<nlohmann::json> all;
  const auto bytes = nlohmann::json::error_handler_t::replace;
  for (const std::string& text : comm::all_gather_strings(context.world, mine.dump(-1, ' ', false, bytes)))
    all.push_back(nlohmann::json::parse(text));
  return all;
}

std::string joined(const std::vector<std::string>& parts, std::string_view between) {
  const std::size_t named = std::min(parts.size(), most_ranks_named);
  std::string text = fmt::format(
      "{}", fmt::join(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(named), between));
  if (named < parts.size()) text += fmt::format("{}and {} more", between, parts.size() - named);
  return text;
}

}  // namespace

Finding find_launcher(comm::ExecutionContext& context) {
  std::string text(name_of(launcher()));
  const std::string pmix = pmix_version(), job = batch_job().id;
  if (!pmix.empty()) text += ", PMIx " + pmix;
  if (!job.empty()) text += ", Slurm job " + job;
  std::set<std::string> hosts;
  for (const std::string& host : comm::all_gather_strings(context.world, node_name())) hosts.insert(host);
  return {Verdict::ok,
          fmt::format("{}; {} on {}", text, counted(static_cast<std::size_t>(context.world.size()), "rank"),
                      counted(hosts.size(), "host"))};
}

Finding find_cores(comm::ExecutionContext& context) {
  struct Host {
    std::set<int> cores;
    int ranks = 0, threads = 0, online = 0;
  };
  std::map<std::string, Host> hosts;
  const int threads = omp_get_max_threads();
  for (const auto& rank : gather(context, {host_name(), cores_text(), threads, num_cores_online()})) {
    Host& host = hosts[rank[0].get<std::string>()];
    for (const int core : numbers_in(rank[1].get<std::string>())) host.cores.insert(core);
    ++host.ranks;
    host.threads += rank[2].get<int>();
    host.online = rank[3].get<int>();
  }
  std::vector<std::string> crowded;
  bool bound = false;
  for (const auto& [name, host] : hosts) {
    if (host.threads <= static_cast<int>(host.cores.size())) continue;
    bound = bound || static_cast<int>(host.cores.size()) < host.online;
    crowded.push_back(fmt::format(
        "{}: {} with {} in all on {}", name, counted(static_cast<std::size_t>(host.ranks), "rank"),
        counted(static_cast<std::size_t>(host.threads), "thread"), counted(host.cores.size(), "core")));
  }
  if (crowded.empty()) return {Verdict::ok, "every thread has a core of its own"};
  const std::string more = bound ? ", or more of the host's cores: " + advice_on_cores(threads) : "";
  return {Verdict::warning, joined(crowded, "; "),
          "fewer ranks or threads (OMP_NUM_THREADS, --run.threads)" + more};
}

Finding find_numa(comm::ExecutionContext& context) {
  const bool gpu = context.device == Device::cuda;
  const int gpu_node = gpu ? numa_node_of_device(current_cuda_device().bus_id) : -1;
  const auto ranks = gather(context, {numa_nodes_of_cores(), gpu_node, num_numa_nodes(), host_name()});
  std::map<std::string, int> ranks_of_host;
  for (const auto& rank : ranks) ++ranks_of_host[rank[3].get<std::string>()];
  std::map<std::string, std::vector<int>> all, wrong;  // words to ranks
  bool known = false;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const auto nodes = ranks[r][0].get<std::vector<int>>();
    const int of_gpu = ranks[r][1].get<int>();
    known = known || !nodes.empty();
    std::string text = fmt::format("cores on NUMA node {}", ranges_text(nodes));
    if (gpu)
      text += of_gpu < 0 ? ", GPU on one that Linux does not name" : fmt::format(", GPU on {}", of_gpu);
    const bool far = of_gpu >= 0 && std::find(nodes.begin(), nodes.end(), of_gpu) == nodes.end();
    const bool wide = nodes.size() > 1 && (gpu || ranks_of_host[ranks[r][3].get<std::string>()] > 1);
    if (far || wide)
      wrong[text + (far ? ": far from each other" : ": spread")].push_back(static_cast<int>(r));
    all[text].push_back(static_cast<int>(r));
  }
  const auto told = [](const std::map<std::string, std::vector<int>>& groups) {
    std::vector<std::string> lines;
    for (const auto& [text, members] : groups)
      lines.push_back(
          fmt::format("rank{} {}: {}", members.size() == 1 ? "" : "s", ranges_text(members), text));
    return joined(lines, "; ");
  };
  if (!known) return {Verdict::ok, "Linux names no NUMA nodes here"};
  if (!wrong.empty()) return {Verdict::warning, told(wrong), advice_on_numa(omp_get_max_threads())};
  return {Verdict::ok, told(all)};
}

Finding find_clocks(comm::ExecutionContext& context) {
  constexpr double worth_a_word_s = 1.0;
  const std::vector<std::string> hosts = comm::all_gather_strings(context.world, node_name());
  context.world.drain();  // MPI is asked directly
  const std::vector<ClockOffset> offsets = clock_offsets();
  if (std::all_of(hosts.begin(), hosts.end(), [&](const auto& host) { return host == hosts[0]; }))
    return {Verdict::ok, "one host, one clock"};
  std::size_t worst = 0;
  for (std::size_t r = 0; r < offsets.size(); ++r)
    if (std::abs(offsets[r].seconds) > std::abs(offsets[worst].seconds)) worst = r;
  const ClockOffset& most = offsets[worst];
  const std::string text =
      fmt::format("{:.3f} ms between ranks 0 ({}) and {} ({}), the most; known to {:.3f} ms",
                  1e3 * std::abs(most.seconds), hosts[0], worst, hosts[worst], 1e3 * most.round_trip_s / 2);
  if (std::abs(most.seconds) < worth_a_word_s) return {Verdict::ok, text};
  return {Verdict::warning, text,
          "synchronize the hosts (chronyd): times in logs and files do not fit together"};
}

Finding find_gpu_way(comm::ExecutionContext& context, const std::string& log_path) {
  std::string mine;
  if (!log_path.empty()) {
    std::error_code ignored;  // NCCL may not have been used
    std::ifstream log(log_path);
    std::ostringstream text;
    text << log.rdbuf();
    mine = nccl_transports(text.str());
    fs::remove(log_path, ignored);
  }
  std::set<std::string> ways;
  for (const std::string& way : comm::all_gather_strings(context.world, mine))
    if (!way.empty()) ways.insert(way);
  const std::string all = fmt::format("{}", fmt::join(ways, "; "));
  const std::string text = "the same by " + context.world.gpu_transport() + (all.empty() ? "" : ", " + all);
  if (all.find("NET/Socket") != std::string::npos)
    return {
        Verdict::warning, text + ": TCP between hosts",
        "load the plug-in of the fabric (aws-ofi-nccl, InfiniBand verbs) and name it in NCCL_NET, which then "
        "fails where it is missing"};
  if (all.find("SHM/") != std::string::npos && all.find("P2P/") == std::string::npos)
    return {Verdict::warning, text + ": through host memory between GPUs of a host",
            "let every rank see all GPUs of its host: " + advice_on_gpus()};
  return {Verdict::ok, text};
}

Finding find_file_system(comm::ExecutionContext& context, const std::string& directory) {
  constexpr auto patience =
      std::chrono::seconds(5);  // a network file system may answer from what it remembers
  auto& world = context.world;
  const std::string mark = directory + "/neuronmoe-check.seen";
  comm::agree(world, [&] {
    if (world.rank() == 0) io::write_file_atomically(mark, "");
  });
  bool seen = false;
  std::error_code unseen;
  const auto end = std::chrono::steady_clock::now() + patience;
  do {
    seen = fs::exists(mark, unseen);
    if (!seen) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  } while (!seen && std::chrono::steady_clock::now() < end);
  const FileSystem system = file_system_of(directory);
  const auto ranks = gather(context, {seen, host_name(), system.type});
  if (world.rank() == 0) fs::remove(mark, unseen);
  std::vector<std::string> blind;
  for (std::size_t r = 0; r < ranks.size(); ++r)
    if (!ranks[r][0].get<bool>())
      blind.push_back(
          fmt::format("rank {} ({}, {})", r, ranks[r][1].get<std::string>(), ranks[r][2].get<std::string>()));
  if (!blind.empty())
    return {
        Verdict::fails,
        fmt::format("what rank 0 ({}, {}) writes into {} is not there for {}", ranks[0][1].get<std::string>(),
                    ranks[0][2].get<std::string>(), directory, joined(blind, ", ")),
        "take a directory that all hosts share"};
  std::int64_t bytes = 0;
  comm::agree(world, [&] { bytes = io::free_space_bytes(directory); });
  return {Verdict::ok, fmt::format("{:.1f} GB in {} ({})", static_cast<double>(bytes) / 1e9,
                                   fs::absolute(directory).string(), system.type)};
}

Finding find_stripe(comm::ExecutionContext& context, const std::string& path) {
  const Stripe stripe = stripe_of(path);
  if (stripe.parts > 0) return {Verdict::ok, fmt::format("a progressive layout of {} parts", stripe.parts)};
  if (stripe.count == 0) return {};
  const std::string text = fmt::format(
      "{} of {} KiB", counted(static_cast<std::size_t>(stripe.count), "stripe"), stripe.bytes / 1024);
  if (stripe.count > 1 || context.world.size() == 1) return {Verdict::ok, text};
  return {Verdict::warning, text + ": one server takes all that the ranks write",
          "lfs setstripe -c 8 -S 4M on the directory, before files are made in it"};
}

}  // namespace nmoe::app

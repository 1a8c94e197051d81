// neuronmoe check: does this machine, with this launcher and this file system, do what a run needs? Every
// answer is tried, not looked up.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "commands.hpp"
#include "launcher.hpp"
#include "mpi_facts.hpp"
#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::app {
namespace {

/// Rank r sends r + 1 rows to every rank, each row naming sender, receiver and number; then a sum whose
/// result is known. On the device the run computes on.
void test_collectives(comm::ExecutionContext& context, Device device) {
  auto& world = context.world;
  const int size = world.size(), rank = world.rank();
  const std::int64_t rows = rank + 1;
  std::vector<std::int64_t> send_counts(static_cast<std::size_t>(size), rows), recv_counts, send, expected;
  for (int to = 0; to < size; ++to) {
    for (std::int64_t i = 0; i < rows; ++i) send.push_back((rank * 100003LL + to) * 1009 + i);
  }
  for (int from = 0; from < size; ++from) {
    recv_counts.push_back(from + 1);
    for (std::int64_t i = 0; i <= from; ++i) expected.push_back((from * 100003LL + rank) * 1009 + i);
  }
  Stream& stream = context.stream;
  const Tensor host = make_tensor(send, {static_cast<std::int64_t>(send.size())});
  const Tensor sent = copied_to(device, host.view(), stream);
  Tensor received({static_cast<std::int64_t>(expected.size())}, DType::int64, device);
  world.all_to_all_v(received.view(), recv_counts, sent.view(), send_counts, stream).wait();
  const Tensor result = copied_to(Device::cpu, received.view(), stream);
  const auto* got = result.data<std::int64_t>();
  const bool equal = std::equal(expected.begin(), expected.end(), got);
  comm::agree(world, [&] { NMOE_CHECK(equal, io, "all_to_all_v delivered wrong rows to rank {}", rank); });
  const double mine = rank + 1.0;
  const double total = static_cast<double>(size) * (size + 1.0) / 2.0;
  Tensor numbers = copied_to(device, ConstTensorView(&mine, DType::float64, {1}), stream);
  world.all_reduce(numbers.view(), comm::ReduceOp::sum, stream).wait();
  const double sum = copied_to(Device::cpu, numbers.view(), stream).data<double>()[0];
  comm::agree(world, [&] {
    NMOE_CHECK(sum == total, io, "all_reduce gave {} for the sum of 1..{}, which is {}", sum, size, total);
  });
}

/// Writes 1 MiB per rank and one unequal share into one file, collectively; finish() reads it back and
/// compares checksums. Returns bytes in all.
std::int64_t test_hdf5(comm::ExecutionContext& context, const std::string& path) {
  auto& world = context.world;
  const std::int64_t share = 262144 + 17 * world.rank();
  std::int64_t begin = 0, total = 0;
  for (int r = 0; r < world.size(); ++r) {
    if (r < world.rank()) begin += 262144 + 17 * r;
    total += 262144 + 17 * r;
  }
  std::vector<float> values(static_cast<std::size_t>(share));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(begin) + static_cast<float>(i) * 0.5F;
  const std::vector<std::int64_t> shape{total};
  const std::vector<io::FileRange> ranges{{begin, share}};
  {
    auto file = io::H5File::create(path, world);
    file.write_ranges("/check", io::ElementType::float32, shape, ranges, values.data());
    file.finish();
  }
  auto file = io::H5File::open(path, world);
  std::vector<float> again(values.size());
  file.read_ranges("/check", io::ElementType::float32, shape, ranges, again.data());
  file.close();
  comm::agree(world, [&] {
    NMOE_CHECK(again == values, io, "{}: HDF5 gave back other numbers than were written", path);
  });
  return total * 4;
}

struct Report {
  comm::ExecutionContext& context;
  int code = 0;  ///< of the first step that failed
  void line(const std::string& what, const std::string& text) const {
    if (context.world.rank() == 0) std::printf("%-12s %s\n", what.c_str(), text.c_str());
  }
  /// Runs one step; what it throws is agreed by the step itself, so every rank goes on alike.
  template <typename Step>
  void step(const std::string& what, Step&& run) {
    try {
      line(what, run());
    } catch (const Error& error) {
      line(what, fmt::format("FAILED: {}", error.what()));
      if (code == 0) code = exit_code(error.code());
    }
    context.heartbeat.beat();
  }
};

}  // namespace

int run_check(comm::ExecutionContext& context, const AppConfig& config) {
  auto& world = context.world;
  const std::string directory = config.run.output.empty() ? "." : config.run.output;
  const std::string path = directory + "/neuronmoe-check.h5";
  Report report{context};
  const std::string table = placement_table(context);
  report.line("program",
              fmt::format("neuronmoe {}, {} rank{}", version(), world.size(), world.size() == 1 ? "" : "s"));
  report.line("placement", "\n" + table.substr(0, table.size() - 1));
  report.line("MPI", mpi_version_text());
  report.line("environment", "\n" + relevant_environment());
  report.step("collectives", [&] {
    test_collectives(context, Device::cpu);
    return std::string("ok: all_to_all_v of unequal counts, all_reduce");
  });
  if (context.device == Device::cuda) {
    report.step("between GPUs", [&] {
      test_collectives(context, Device::cuda);
      return "ok: the same by " + world.gpu_transport();
    });
  }
  bool place_there = false;
  report.step("free space", [&] {
    std::int64_t bytes = 0;
    comm::agree(world, [&] {
      if (world.rank() == 0) io::make_directories(directory);
      bytes = io::free_space_bytes(directory);
    });
    place_there = true;
    return fmt::format("{:.1f} GB in {}", static_cast<double>(bytes) / 1e9,
                       std::filesystem::absolute(directory).string());
  });
  if (place_there) {
    world.drain();  // MPI is asked directly
    report.line("MPI-IO", mpi_io_text(path + ".mpi"));
    report.step("HDF5", [&] {
      const std::int64_t bytes = test_hdf5(context, path);
      return fmt::format("ok: {:.1f} MB written by all ranks, read back, checksums equal",
                         static_cast<double>(bytes) / 1e6);
    });
    std::error_code ignored;  // a step that failed has said why
    if (world.rank() == 0) std::filesystem::remove(path, ignored);
  } else {
    report.line("HDF5", "not tried: there is no place to write to");
  }
  report.line("verdict", report.code == 0 ? "ready" : "NOT ready: see FAILED above");
  if (world.rank() == 0) std::fflush(stdout);
  return report.code;
}

}  // namespace nmoe::app

// neuronmoe check: does this machine, with this launcher and this file system, do what a run needs? Every
// answer is tried, not looked up.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "check_findings.hpp"
#include "commands.hpp"
#include "launcher.hpp"
#include "mpi_facts.hpp"
#include "nccl_log.hpp"
#include "neuronmoe/app/run_guarded.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/hdf5_version.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "standard_output.hpp"

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

std::string_view word_of(Verdict verdict) {
  return verdict == Verdict::ok ? "ok" : verdict == Verdict::warning ? "warning" : "FAILED";
}

/// The lines of `check`: what was looked at, a verdict, what was found and what to do.
struct Report {
  comm::ExecutionContext& context;
  int code = 0;  ///< of the first step that failed
  int warnings = 0;
  void line(const std::string& what, const std::string& text) const {
    if (context.world.rank() == 0) std::printf("%-12s %s\n", what.c_str(), text.c_str());
  }
  void line(const std::string& what, const Finding& finding) {
    if (finding.verdict == Verdict::warning) ++warnings;
    if (finding.verdict == Verdict::fails && code == 0) code = exit_code(ErrorCode::io);
    const Accent accent = finding.verdict == Verdict::ok        ? Accent::good
                          : finding.verdict == Verdict::warning ? Accent::doubtful
                                                                : Accent::bad;
    line(what, fmt::format("{}: {}{}{}", accented(word_of(finding.verdict), accent), finding.text,
                           finding.remedy.empty() ? "" : "; remedy: ", finding.remedy));
  }
  /// Runs one step; what it throws is agreed by the step itself, so every rank goes on alike. Returns
  /// whether it did not fail.
  template <typename Step>
  bool step(const std::string& what, Step&& run) {
    Finding finding;
    try {
      finding = run();
    } catch (const Error& error) {
      finding = {Verdict::fails, error.what()};
      if (code == 0) code = exit_code(error.code());
    }
    line(what, finding);
    context.heartbeat.beat();
    return finding.verdict != Verdict::fails;
  }
};

void check_ranks(Report& report) {
  comm::ExecutionContext& context = report.context;
  const std::string table = placement_table(context);
  report.line("program", {Verdict::ok, fmt::format("neuronmoe {}", version())});
  report.line("launcher", find_launcher(context));
  report.line("placement", "\n" + table.substr(0, table.size() - 1));
  report.line("cores", find_cores(context));
  report.line("NUMA", find_numa(context));
  report.line("clocks", find_clocks(context));
  report.line("MPI", {Verdict::ok, mpi_version_text()});
  report.line("environment", "\n" + relevant_environment());
}

void check_transports(Report& report, const std::string& nccl_log) {
  report.step("collectives", [&] {
    test_collectives(report.context, Device::cpu);
    return Finding{Verdict::ok, "all_to_all_v of unequal counts, all_reduce"};
  });
  if (report.context.device != Device::cuda) return;
  report.step("between GPUs", [&] {
    test_collectives(report.context, Device::cuda);
    return find_gpu_way(report.context, nccl_log);
  });
}

void check_files(Report& report, const std::string& directory) {
  auto& world = report.context.world;
  const std::string path = directory + "/neuronmoe-check.h5";
  const bool place_there = report.step("free space", [&] {
    comm::agree(world, [&] {
      if (world.rank() == 0) io::make_directories(directory);
    });
    return find_file_system(report.context, directory);
  });
  if (!place_there) {
    report.line("HDF5", "not tried: there is no place to write to");
    return;
  }
  report.step("MPI-IO", [&]() -> Finding {
    world.drain();  // MPI is asked directly
    const MpiIo found = mpi_io_of(path + ".mpi");
    if (found.component == "ompio")
      return {Verdict::warning, "ompio: it reports success on a full disk", "unset OMPI_MCA_io"};
    return {found.opened ? Verdict::ok : Verdict::fails, found.component};
  });
  report.step("HDF5", [&] {
    const std::int64_t bytes = test_hdf5(report.context, path);
    return Finding{Verdict::ok, fmt::format("{}: {:.1f} MB written by all ranks, read back, checksums equal",
                                            io::hdf5_version(), static_cast<double>(bytes) / 1e6)};
  });
  const Finding stripe = find_stripe(report.context, path);
  if (!stripe.text.empty()) report.line("stripe", stripe);
  std::error_code ignored;  // a step that failed has said why
  if (world.rank() == 0) std::filesystem::remove(path, ignored);
}

}  // namespace

int run_check(comm::ExecutionContext& context, const AppConfig& config) {
  const std::string nccl_log = nccl_log_path();
  Report report{context};
  check_ranks(report);
  check_transports(report, nccl_log);
  check_files(report, config.run.output.empty() ? "." : config.run.output);
  std::string verdict = report.code == 0 ? accented("ready", Accent::good)
                                         : accented("NOT ready", Accent::bad) + ": see FAILED above";
  if (report.warnings > 0)
    verdict += fmt::format("{} {} warning{} above", report.code == 0 ? ", but see" : ", and", report.warnings,
                           report.warnings == 1 ? "" : "s");
  report.line("verdict", verdict);
  if (context.world.rank() == 0) std::fflush(stdout);
  return report.code;
}

}  // namespace nmoe::app

#pragma once
// What `check` finds about placement, clocks, GPUs and file systems: one finding for each of its lines.
// Apart from command_check.cpp, which tries MPI and HDF5.
#include <string>

#include "neuronmoe/comm/execution_context.hpp"

namespace nmoe::app {

enum class Verdict { ok, warning, fails };

struct Finding {
  Verdict verdict = Verdict::ok;
  std::string text;
  std::string remedy = {};  ///< "" if there is nothing to mend
};

/// Each is collective over context.world and has its words on rank 0; no rank waits for an answer that
/// another does not give.
Finding find_launcher(comm::ExecutionContext& context);
/// Threads of the ranks of each host beside the cores that they may run on.
Finding find_cores(comm::ExecutionContext& context);
/// NUMA nodes of cores and GPU, rank by rank.
Finding find_numa(comm::ExecutionContext& context);
/// How far the clocks of the hosts are apart.
Finding find_clocks(comm::ExecutionContext& context);
/// How GPUs reach each other. @param log_path NCCL's log of this rank, which is removed; "" for none
Finding find_gpu_way(comm::ExecutionContext& context, const std::string& log_path);
/// Type, room and reach of the file system below a directory that rank 0 has made: `fails` where a host does
/// not see what rank 0 writes there. @throws Error(io) on every rank if rank 0 cannot write there
Finding find_file_system(comm::ExecutionContext& context, const std::string& directory);
/// How a file that all ranks wrote is spread over the servers of Lustre; no text elsewhere.
Finding find_stripe(comm::ExecutionContext& context, const std::string& path);

}  // namespace nmoe::app

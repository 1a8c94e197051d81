#pragma once
// Communicators for tensors on GPUs, made around one for host tensors. app chooses one for the world
// (comm.gpu_transport) and splits it; everybody else only sees the interface.
#include <cstdint>
#include <memory>
#include <string>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm {

/// How tensors on GPUs travel between ranks: by one of the two communicators below.
enum class GpuTransport { nccl, host };
constexpr auto enum_names(GpuTransport) {
  return std::to_array<EnumName<GpuTransport>>({{GpuTransport::nccl, "nccl"}, {GpuTransport::host, "host"}});
}

/// Makes a communicator whose device tensors travel through page-locked host memory and `host`; host tensors
/// go straight to it. The numbers, the order of sums and the counters are those of `host`. A call with a
/// device tensor returns when the stream has reached it and the data is on its way; memory for staging grows
/// to what is in flight at once and stays. A group of one rank copies on the device, in the order of the
/// stream. Works between any ranks, also those that share one GPU; NCCL is faster where it applies. Takes
/// ownership of `host`; groups made by split() are of the same kind. Collective: no; close() is.
std::unique_ptr<Communicator> make_host_copy_communicator(std::unique_ptr<Communicator> host);

struct NcclOptions {
  /// Compare operation, dtype, counts and sequence number over all ranks before each collective on device
  /// tensors, as MpiOptions::debug_checks does for host tensors (which it should be set for, too).
  bool debug_checks = false;
  std::int64_t small_reduce_bytes = default_small_reduce_bytes;
  /// A collective that has not finished so long after the one before it is an error; 0 = never.
  double timeout_s = 600.0;
};

/// Returns why NCCL cannot be used by this process, with a remedy: it was built without, or the library is
/// not found here; "" if it can. Opens the library.
std::string why_no_nccl();

/// Makes a communicator whose device tensors travel by NCCL, host tensors by `host`. One NCCL communicator
/// per group, made over `host`: the world's here, that of a group at its first collective on device tensors.
/// All work of this process goes through one stream of its own, in program order, with events from and to the
/// caller's stream; the host waits only until NCCL has queued it. Sums have the bits of the MPI version:
/// parts are gathered by NCCL and added in ascending rank order. A thread watches what is under way: an error
/// of NCCL, or a collective that does not finish in time, aborts all groups, and every later call throws an
/// Error naming the collective and the rank. Takes ownership of `host`. The destructor aborts what close()
/// has not closed.
/// @pre this thread's CUDA device is chosen, and no two ranks of `host` share one (NCCL hangs then)
/// @throws Error(config) where why_no_nccl() has words, Error(watchdog) if the ranks do not find each other
/// Collective: yes, over `host`; so is close().
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     const NcclOptions& options = {});

}  // namespace nmoe::comm

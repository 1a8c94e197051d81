#pragma once
// Communicators for tensors on GPUs, made around one for host tensors. app chooses one for the world
// (comm.gpu_transport) and splits it; everybody else only sees the interface.
#include <memory>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm {

/// Device tensors travel through page-locked host memory and `host`; host tensors go straight to it. The
/// numbers, the order of sums and the counters are those of `host`. A call with a device tensor returns when
/// the stream has reached it and the data is on its way; memory for staging grows to what is in flight at
/// once and stays. Works between any ranks, also those that share one GPU; NCCL is faster where it applies.
/// Takes over `host`; groups made by split() are of the same kind. Collective: no; close() is.
std::unique_ptr<Communicator> make_host_copy_communicator(std::unique_ptr<Communicator> host);

}  // namespace nmoe::comm

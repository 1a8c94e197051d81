#pragma once
// What a test can do to the emulated NCCL of its process, and see of it.

namespace nmoe::emulation {

/// From now on every open communicator reports that a peer has gone.
void lose_nccl_peers();
int num_open_nccl_communicators();
int num_aborted_nccl_communicators();

}  // namespace nmoe::emulation

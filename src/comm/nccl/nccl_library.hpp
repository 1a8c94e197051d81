#pragma once
// NCCL as the sources of this folder call it, opened when the first group is made or asked for. Linked, it
// would have to be there on a login node, where nothing needs it.
#include <nccl.h>

namespace nmoe::comm::detail {

/// Functions of the library under their own names without "nccl".
struct Nccl {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclCommFinalize) comm_finalize;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclAllReduce) all_reduce;
};

/// The same for all threads, never closed.   @throws Error(config) if the library or a function is missing
const Nccl& nccl();

}  // namespace nmoe::comm::detail

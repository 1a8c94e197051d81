// NCCL opened by dlopen when something needs it.
#include "nccl_library.hpp"

#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/base/shared_library.hpp"

namespace nmoe::comm::detail {

namespace {

Nccl open_nccl() {
  std::vector<std::string> names = {"libnccl.so.2"};
  if (std::string_view(NMOE_NCCL_FILE) != "") names.emplace_back(NMOE_NCCL_FILE);  // beside the header
  const SharedLibrary library(names,
                              "NCCL 2.14 or newer is needed: install it, add its folder to LD_LIBRARY_PATH, "
                              "or use --comm.gpu_transport host");
  Nccl nccl{};
  library.find(nccl.get_version, "ncclGetVersion");
  library.find(nccl.error_string, "ncclGetErrorString");
  library.find(nccl.get_unique_id, "ncclGetUniqueId");
  library.find(nccl.comm_init_rank_config, "ncclCommInitRankConfig");
  library.find(nccl.comm_get_async_error, "ncclCommGetAsyncError");
  library.find(nccl.comm_finalize, "ncclCommFinalize");
  library.find(nccl.comm_destroy, "ncclCommDestroy");
  library.find(nccl.comm_abort, "ncclCommAbort");
  library.find(nccl.group_start, "ncclGroupStart");
  library.find(nccl.group_end, "ncclGroupEnd");
  library.find(nccl.send, "ncclSend");
  library.find(nccl.recv, "ncclRecv");
  library.find(nccl.all_gather, "ncclAllGather");
  library.find(nccl.broadcast, "ncclBroadcast");
  library.find(nccl.all_reduce, "ncclAllReduce");
  return nccl;
}

}  // namespace

const Nccl& nccl() {
  static const Nccl only = open_nccl();
  return only;
}

}  // namespace nmoe::comm::detail

// Stands for src/comm/nccl/nccl_library.cpp: the emulated functions, without a library to open.
// NMOE_EMULATED_NCCL=missing stands for a machine without one.
#include <cstdlib>
#include <string_view>

#include "../../../src/comm/nccl/nccl_library.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe::comm::detail {

const Nccl& nccl() {
  const char* wish = std::getenv("NMOE_EMULATED_NCCL");
  if (wish != nullptr && std::string_view(wish) == "missing")
    throw Error(ErrorCode::config, "libnccl.so.2: cannot open shared object file; the emulation was told so");
  static constexpr Nccl only = {
      &ncclGetVersion,        &ncclGetErrorString, &ncclGetUniqueId, &ncclCommInitRankConfig,
      &ncclCommGetAsyncError, &ncclCommFinalize,   &ncclCommDestroy, &ncclCommAbort,
      &ncclGroupStart,        &ncclGroupEnd,       &ncclSend,        &ncclRecv,
      &ncclAllGather,         &ncclBroadcast,      &ncclAllReduce};
  return only;
}

}  // namespace nmoe::comm::detail

// Linked instead of comm/nccl when NCCL was not found or CUDA is not built: an honest error, no fallback.
#include "neuronmoe/comm/device_communicator.hpp"

namespace nmoe::comm {

bool has_nccl() {
  return false;
}
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator>, const NcclOptions&) {
  throw Error(
      ErrorCode::config,
      "tensors on GPUs by NCCL: built without NCCL; use --comm.gpu_transport host or a build with it");
}

}  // namespace nmoe::comm

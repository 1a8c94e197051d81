// Linked instead of comm/nccl when NCCL was not found or CUDA is not built: an honest error, no fallback.
#include "neuronmoe/comm/device_communicator.hpp"

namespace nmoe::comm {

std::string why_no_nccl() {
  return "this program was built without NCCL; use --comm.gpu_transport host or a build with it";
}
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator>, const NcclOptions&) {
  throw Error(ErrorCode::config, "tensors on GPUs by NCCL: " + why_no_nccl());
}

}  // namespace nmoe::comm

#pragma once
// NCCL's return codes as errors, and its names for our types.
#include "nccl_library.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/communicator.hpp"

/// NMOE_NCCL(call): throws Error(internal) with NCCL's own text unless the call succeeds or is under way.
#define NMOE_NCCL(call)                                                                              \
  do {                                                                                               \
    const ncclResult_t nmoe_nccl_code = (call);                                                      \
    if (nmoe_nccl_code != ncclSuccess && nmoe_nccl_code != ncclInProgress) [[unlikely]]              \
      ::nmoe::throw_error(                                                                           \
          ::nmoe::ErrorCode::internal, __FILE__, __LINE__, #call,                                    \
          std::string("NCCL failed: ") + ::nmoe::comm::detail::nccl().error_string(nmoe_nccl_code)); \
  } while (false)

namespace nmoe::comm::detail {

inline ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return ncclFloat64;
    case DType::float32:
      return ncclFloat32;
    case DType::bfloat16:
      return ncclBfloat16;
    case DType::int32:
      return ncclInt32;
    case DType::int64:
      return ncclInt64;
    case DType::uint8:
      return ncclUint8;
  }
  throw Error(ErrorCode::internal, "a type that NCCL does not know");
}

inline ncclRedOp_t nccl_op(ReduceOp op) {
  if (op == ReduceOp::sum) return ncclSum;
  return op == ReduceOp::min ? ncclMin : ncclMax;
}

}  // namespace nmoe::comm::detail

// cuBLASLt opened by dlopen when the first product needs it.
#include "gemm_cublaslt_library.hpp"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/base/shared_library.hpp"
#include "neuronmoe/ops/gpu_libraries.hpp"

namespace nmoe::ops {

namespace cuda {

CublasLt::CublasLt() {
  // The major version of the header; NMOE_CUBLASLT is the file that CMake found beside it.
  std::vector<std::string> names = {fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR)};
  if (std::string_view(NMOE_CUBLASLT) != "") names.emplace_back(NMOE_CUBLASLT);
  const SharedLibrary library(names, fmt::format("products on a GPU need cuBLAS {}: install it, add "
                                                 "its folder to LD_LIBRARY_PATH, or use --device cpu",
                                                 CUBLAS_VER_MAJOR));
  library.find(status_string, "cublasLtGetStatusString");
  library.find(create, "cublasLtCreate");
  library.find(destroy, "cublasLtDestroy");
  library.find(matmul, "cublasLtMatmul");
  library.find(algorithm_heuristic, "cublasLtMatmulAlgoGetHeuristic");
  library.find(operation_create, "cublasLtMatmulDescCreate");
  library.find(operation_destroy, "cublasLtMatmulDescDestroy");
  library.find(operation_set, "cublasLtMatmulDescSetAttribute");
  library.find(layout_create, "cublasLtMatrixLayoutCreate");
  library.find(layout_destroy, "cublasLtMatrixLayoutDestroy");
  library.find(preference_create, "cublasLtMatmulPreferenceCreate");
  library.find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
  library.find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
}

const CublasLt& cublaslt() {
  static const CublasLt* only = new CublasLt;  // handles of threads are given back after main
  return *only;
}

}  // namespace cuda

void require_gpu_libraries() {
  static_cast<void>(cuda::cublaslt());
}

}  // namespace nmoe::ops

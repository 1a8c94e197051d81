#pragma once
// cuBLASLt as gemm_cublaslt.cpp calls it, opened by the first product (or require_gpu_libraries). Linked, it
// would cost every process 151 MB at its start, those on a CPU too (docs/performance.md).
#include <cublasLt.h>

namespace nmoe::ops::cuda {

/// Functions of the library under their own names without "cublasLt".
struct CublasLt {
  CublasLt();  ///< @throws Error(config) if the library or a function is missing
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) algorithm_heuristic;
  decltype(&cublasLtMatmulDescCreate) operation_create;
  decltype(&cublasLtMatmulDescDestroy) operation_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) operation_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
};

/// The same for all threads, never closed.
const CublasLt& cublaslt();

}  // namespace nmoe::ops::cuda

// GEMM through cuBLASLt. Row-major matrices are the column-major transposes, so c = op(a)·op(b) is asked for
// as cᵀ = op(b)ᵀ·op(a)ᵀ: the operands change places and nothing is moved.
//
// The algorithm is the first of the library's heuristic for the shape and the alignment, kept per shape;
// never the winner of a timing. Split-K sums go through the workspace in a fixed order, so equal shapes give
// equal bits.
#include <algorithm>
#include <map>
#include <tuple>

#include "gemm.hpp"
#include "gemm_cublaslt_library.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/ops/gpu_libraries.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "scratch.hpp"

namespace nmoe::ops::cuda {

namespace {

constexpr std::size_t most_plans = 4096;  // experts see a new row count in every micro-batch

void check(cublasStatus_t status, const char* what) {
  NMOE_CHECK(status == CUBLAS_STATUS_SUCCESS, internal, "cuBLASLt: {}: {}", what,
             cublaslt().status_string(status));
}

/// Gives a handle back by a function of the library.
template <auto destroy>
constexpr auto give_back = [](auto handle) { static_cast<void>((cublaslt().*destroy)(handle)); };
using Library = Handle<cublasLtHandle_t, give_back<&CublasLt::destroy>>;
using Operation = Handle<cublasLtMatmulDesc_t, give_back<&CublasLt::operation_destroy>>;
using Layout = Handle<cublasLtMatrixLayout_t, give_back<&CublasLt::layout_destroy>>;
using Preference = Handle<cublasLtMatmulPreference_t, give_back<&CublasLt::preference_destroy>>;

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::bfloat16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// Largest power of two up to 16 that divides the address: rows that start on 16-byte boundaries all share
/// one plan, wherever they lie.
std::uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer) | 16U;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

struct Plan {
  Operation operation;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

template <typename T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublaslt().operation_set(operation.get(), attribute, &value, sizeof(value)),
        "attribute of a product");
}
template <typename T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublaslt().preference_set(preference.get(), attribute, &value, sizeof(value)), "preference");
}

Layout layout(DType dtype, std::int64_t rows, std::int64_t columns) {  // column-major, without gaps
  cublasLtMatrixLayout_t made = nullptr;
  check(cublaslt().layout_create(&made, type_of(dtype), static_cast<std::uint64_t>(rows),
                                 static_cast<std::uint64_t>(columns), rows),
        "layout of a matrix");
  return Layout(made);
}

struct Alignments {
  std::uint32_t a, b, c, bias;
  auto operator<=>(const Alignments&) const = default;
};

Plan make_plan(cublasLtHandle_t library, const Gemm& call, const void* bias, const Alignments& alignments) {
  Plan plan;
  cublasLtMatmulDesc_t operation = nullptr;
  check(cublaslt().operation_create(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description of a product");
  plan.operation = Operation(operation);
  const cublasOperation_t of_b = call.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t of_a = call.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, of_b);  // b comes first
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, of_a);
  if (bias != nullptr) {  // the address before the choice, which may look at its alignment
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(call.output));
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }
  plan.b = call.transpose_b ? layout(call.input, call.k, call.n) : layout(call.input, call.n, call.k);
  plan.a = call.transpose_a ? layout(call.input, call.m, call.k) : layout(call.input, call.k, call.m);
  plan.c = layout(call.output, call.n, call.m);

  cublasLtMatmulPreference_t made = nullptr;
  check(cublaslt().preference_create(&made), "preference");
  const Preference preference(made);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(gemm_workspace_bytes));
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments.b);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments.a);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments.c);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments.c);
  cublasLtMatmulHeuristicResult_t found;
  int num_found = 0;
  check(cublaslt().algorithm_heuristic(library, plan.operation.get(), plan.b.get(), plan.a.get(),
                                       plan.c.get(), plan.c.get(), preference.get(), 1, &found, &num_found),
        "choice of an algorithm");
  NMOE_CHECK(num_found == 1, internal, "cuBLASLt has no algorithm for [{}, {}] x [{}, {}] {}", call.m, call.k,
             call.k, call.n, name_of(call.input));
  plan.algorithm = found.algo;
  return plan;
}

/// The library's handle and the plans of one thread.
struct Plans {
  Library library;
  std::map<std::tuple<Gemm, bool, Alignments>, Plan> plans;

  Plans() {
    cublasLtHandle_t made = nullptr;
    check(cublaslt().create(&made), "starting the library");
    library = Library(made);
  }
  Plan& of(const Gemm& call, const void* bias, const Alignments& alignments) {
    const auto key = std::tuple(call, bias != nullptr, alignments);
    const auto found = plans.find(key);
    if (found != plans.end()) return found->second;
    if (plans.size() >= most_plans) plans.clear();
    return plans.emplace(key, make_plan(library.get(), call, bias, alignments)).first->second;
  }
};

}  // namespace

void gemm(const Gemm& call, const void* a, const void* b, void* c, const void* bias, Stream& stream) {
  if (call.m == 0 || call.n == 0) return;
  if (call.k == 0) {
    NMOE_CHECK(bias == nullptr, internal, "a product over 0 elements with a bias");
    if (!call.accumulate) zero(TensorView(c, call.output, {call.m, call.n}, Device::cuda), stream);
    return;
  }
  thread_local Plans plans;
  Plan& plan = plans.of(call, bias, {alignment_of(a), alignment_of(b), alignment_of(c), alignment_of(bias)});
  if (bias != nullptr) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const float one = 1.0F, beta = call.accumulate ? 1.0F : 0.0F;
  check(cublaslt().matmul(plans.library.get(), plan.operation.get(), &one, b, plan.b.get(), a, plan.a.get(),
                          &beta, c, plan.c.get(), c, plan.c.get(), &plan.algorithm,
                          scratch_bytes(stream, Scratch::gemm, gemm_workspace_bytes),
                          static_cast<std::size_t>(gemm_workspace_bytes),
                          static_cast<cudaStream_t>(stream.native())),
        "product");
}

}  // namespace nmoe::ops::cuda

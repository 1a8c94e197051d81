// Matrix products by oneDNN (2.x C API): its sgemm for float32, a cached matmul primitive for bfloat16.
#include <dnnl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>

#include "../gemm.hpp"
#include "../scratch.hpp"
#include "../threads.hpp"
#include "few_rows.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::cpu {

namespace {

void check(dnnl_status_t status, const char* what) {
  NMOE_CHECK(status == dnnl_success, internal, "oneDNN {}: status {}", what, static_cast<int>(status));
}

// oneDNN splits a product by its own rules when it may use several threads; ours must not depend on that.
// Inside a parallel region it already takes one.
class OneThread {
 public:
  OneThread() : before_(omp_in_parallel() != 0 ? 1 : omp_get_max_threads()) {
    if (before_ > 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ > 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

void destroy_primitive(dnnl_primitive_t p) {
  static_cast<void>(dnnl_primitive_destroy(p));
}
void destroy_memory(dnnl_memory_t m) {
  static_cast<void>(dnnl_memory_destroy(m));
}
using Primitive = Handle<dnnl_primitive_t, destroy_primitive>;
using Memory = Handle<dnnl_memory_t, destroy_memory>;

// A matmul of one shape with the memory objects it runs on; their pointers are set before each run.
struct Matmul {
  Primitive primitive;
  Memory a, b, c;
};

struct Runtime {
  dnnl_engine_t engine = nullptr;
  dnnl_stream_t stream = nullptr;
  Runtime() {
    check(dnnl_engine_create(&engine, dnnl_cpu, 0), "engine");
    check(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "stream");
  }
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  ~Runtime() {
    static_cast<void>(dnnl_stream_destroy(stream));
    static_cast<void>(dnnl_engine_destroy(engine));
  }
};

dnnl_memory_desc_t describe(std::int64_t rows, std::int64_t columns, std::int64_t ld, bool transposed,
                            dnnl_data_type_t type) {
  const dnnl_dims_t dims = {rows, columns};
  const dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};
  dnnl_memory_desc_t desc;
  check(dnnl_memory_desc_init_by_strides(&desc, 2, dims, type, strides), "memory descriptor");
  return desc;
}

// The three operands, and whether oneDNN has a kernel for them on this CPU.
struct Plan {
  dnnl_memory_desc_t a, b, c;
  dnnl_primitive_desc_t matmul = nullptr;
  dnnl_status_t status = dnnl_success;
};

Plan plan_matmul(const Runtime& runtime, const GemmShape& s, bool accumulate) {
  const auto a = describe(s.m, s.k, s.lda, s.transpose_a, dnnl_bf16);
  const auto b = describe(s.k, s.n, s.ldb, s.transpose_b, dnnl_bf16);
  const auto c = describe(s.m, s.n, s.ldc, false, dnnl_f32);
  dnnl_matmul_desc_t desc;
  check(dnnl_matmul_desc_init(&desc, &a, &b, nullptr, &c), "matmul descriptor");
  dnnl_primitive_attr_t attributes = nullptr;
  dnnl_post_ops_t post_ops = nullptr;
  check(dnnl_primitive_attr_create(&attributes), "attributes");
  check(dnnl_post_ops_create(&post_ops), "post-ops");
  if (accumulate) {
    check(dnnl_post_ops_append_sum(post_ops, 1.0F), "sum");
    check(dnnl_primitive_attr_set_post_ops(attributes, post_ops), "post-ops");
  }
  Plan plan{a, b, c};
  plan.status = dnnl_primitive_desc_create(&plan.matmul, &desc, attributes, runtime.engine, nullptr);
  static_cast<void>(dnnl_post_ops_destroy(post_ops));
  static_cast<void>(dnnl_primitive_attr_destroy(attributes));
  return plan;
}

Matmul make_matmul(const Runtime& runtime, const GemmShape& s, bool accumulate) {
  const Plan plan = plan_matmul(runtime, s, accumulate);
  check(plan.status, "matmul plan");
  dnnl_primitive_t primitive = nullptr;
  check(dnnl_primitive_create(&primitive, plan.matmul), "matmul");
  static_cast<void>(dnnl_primitive_desc_destroy(plan.matmul));
  Matmul result{Primitive(primitive), {}, {}, {}};
  const auto memory = [&](const dnnl_memory_desc_t& md) {
    dnnl_memory_t m = nullptr;
    check(dnnl_memory_create(&m, &md, runtime.engine, DNNL_MEMORY_NONE), "memory");
    return Memory(m);
  };
  result.a = memory(plan.a);
  result.b = memory(plan.b);
  result.c = memory(plan.c);
  return result;
}

// oneDNN multiplies bfloat16 on CPUs with AVX-512 only; elsewhere operands are widened for sgemm.
bool has_bfloat16() {
  static const bool has = [] {
    const Runtime runtime;
    const Plan plan = plan_matmul(runtime, {false, false, 16, 16, 16, 16, 16, 16}, false);
    if (plan.status == dnnl_success) static_cast<void>(dnnl_primitive_desc_destroy(plan.matmul));
    return plan.status == dnnl_success;
  }();
  return has;
}

// Rows of a stored operand as packed float.
template <Scratch purpose>
const float* widened(const bfloat16* p, std::int64_t rows, std::int64_t columns, std::int64_t ld) {
  float* copy = scratch<float, purpose>(rows * columns);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < columns; ++i) copy[r * columns + i] = static_cast<float>(p[r * ld + i]);
  }
  return copy;
}

// Per thread, so that no lock is held while a product runs. Bounded: token counts of experts change every
// step, but callers cut them into few sizes (below).
Matmul& cached_matmul(const Runtime& runtime, const GemmShape& s, bool accumulate) {
  using Key = std::array<std::int64_t, 8>;
  constexpr std::size_t max_entries = 2048;
  thread_local std::map<Key, Matmul> cache;
  const Key key = {s.m,
                   s.n,
                   s.k,
                   s.lda,
                   s.ldb,
                   s.ldc,
                   (s.transpose_a ? 1 : 0) + (s.transpose_b ? 2 : 0),
                   accumulate ? 1 : 0};
  auto found = cache.find(key);
  if (found == cache.end()) {
    if (cache.size() >= max_entries) cache.clear();
    found = cache.emplace(key, make_matmul(runtime, s, accumulate)).first;
  }
  return found->second;
}

void run_matmul(const GemmShape& s, const bfloat16* a, const bfloat16* b, float* c, bool accumulate) {
  thread_local const Runtime runtime;
  Matmul& matmul = cached_matmul(runtime, s, accumulate);
  check(dnnl_memory_set_data_handle(matmul.a.get(), const_cast<bfloat16*>(a)), "operand");
  check(dnnl_memory_set_data_handle(matmul.b.get(), const_cast<bfloat16*>(b)), "operand");
  check(dnnl_memory_set_data_handle(matmul.c.get(), c), "result");
  const std::array<dnnl_exec_arg_t, 3> arguments = {
      {{DNNL_ARG_SRC, matmul.a.get()}, {DNNL_ARG_WEIGHTS, matmul.b.get()}, {DNNL_ARG_DST, matmul.c.get()}}};
  check(dnnl_primitive_execute(matmul.primitive.get(), runtime.stream, 3, arguments.data()), "matmul run");
  check(dnnl_stream_wait(runtime.stream), "wait");
}

// The largest power of two not above n, from 16 on; what is below 16 stays whole. A token count of any size
// then meets at most 15 + log2 different shapes, and every shape is compiled once.
std::int64_t next_piece(std::int64_t n) {
  return n < 16 ? n : static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(n)));
}

void sgemm(const GemmShape& s, const float* a, const float* b, float* c, bool accumulate) {
  const OneThread one_thread;
  check(dnnl_sgemm(s.transpose_a ? 'T' : 'N', s.transpose_b ? 'T' : 'N', s.m, s.n, s.k, 1.0F, a, s.lda, b,
                   s.ldb, accumulate ? 1.0F : 0.0F, c, s.ldc),
        "sgemm");
}

}  // namespace

// On CPUs with AVX-512 oneDNN's sgemm adds `most_terms` products one after the other, then the next, and cuts
// the rest in halves if there are fewer than twice as many; some of its kernels do so only if the whole sum
// has fewer, and none below 16 rows or for one column. On smaller CPUs the order depends on sizes in ways
// that no rule here covers.
bool rows_are_independent() {
  static const bool avx512 = dnnl_get_effective_cpu_isa() >= dnnl_cpu_isa_avx512_core;
  return avx512;
}

// Every element has that order of additions, whatever comes with it.
void gemm_piece(const GemmShape& s, const float* a, const float* b, float* c, bool accumulate) {
  if (s.transpose_a || !rows_are_independent()) return sgemm(s, a, b, c, accumulate);
  if (s.n == 1) return one_column(s, a, b, c, accumulate);
  if (s.m <= most_few_rows) return few_rows(s, a, b, c, accumulate);
  const std::int64_t whole =
      s.k > 2 * most_terms && s.k % most_terms != 0 ? (s.k / most_terms - 1) * most_terms : 0;
  GemmShape piece = s;
  piece.k = whole;
  if (whole > 0) sgemm(piece, a, b, c, accumulate);
  piece.k = s.k - whole;
  sgemm(piece, a + whole, b + whole * (s.transpose_b ? 1 : s.ldb), c, accumulate || whole > 0);
}

// Tokens are the rows of C in forward and input gradients, and the inner extent in weight gradients.
void gemm_piece(const GemmShape& s, const bfloat16* a, const bfloat16* b, float* c, bool accumulate) {
  GemmShape piece = s;
  if (!has_bfloat16()) {
    const float* wide_a = s.transpose_a ? widened<Scratch::gemm_wide_a>(a, s.k, s.m, s.lda)
                                        : widened<Scratch::gemm_wide_a>(a, s.m, s.k, s.lda);
    const float* wide_b = s.transpose_b ? widened<Scratch::gemm_wide_b>(b, s.n, s.k, s.ldb)
                                        : widened<Scratch::gemm_wide_b>(b, s.k, s.n, s.ldb);
    piece.lda = s.transpose_a ? s.m : s.k;
    piece.ldb = s.transpose_b ? s.k : s.n;
    return gemm_piece(piece, wide_a, wide_b, c, accumulate);
  }
  const OneThread one_thread;
  if (s.transpose_a) {
    for (std::int64_t first = 0; first < s.k; first += piece.k) {
      piece.k = next_piece(s.k - first);
      run_matmul(piece, a + first * s.lda, b + first * (s.transpose_b ? 1 : s.ldb), c,
                 accumulate || first > 0);
    }
    return;
  }
  for (std::int64_t first = 0; first < s.m; first += piece.m) {
    piece.m = next_piece(s.m - first);
    run_matmul(piece, a + first * s.lda, b, c + first * s.ldc, accumulate);
  }
}

}  // namespace nmoe::ops::cpu

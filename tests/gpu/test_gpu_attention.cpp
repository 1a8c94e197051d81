// Attention on the GPU against the plain loops in float64.
#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "support/on_gpu.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {
using Offsets = std::vector<std::int64_t>;
struct Case {
  Offsets offsets;
  std::int64_t heads, kv_heads, width;
};
// Empty batch, empty and single-token sequences, tiles of 64 met exactly and not, grouped heads, widths that
// need padding or no 16-byte rows, all three tensor-core widths, and one too wide for them.
const std::vector<Case> cases = {{{}, 2, 1, 8},
                                 {{0, 0, 1, 1, 4}, 1, 1, 1},
                                 {{0, 13, 13, 30}, 6, 2, 5},
                                 {{0, 64, 128}, 4, 2, 32},
                                 {{0, 63, 127, 192}, 2, 2, 16},
                                 {{0, 1, 98}, 4, 1, 67},
                                 {{0, 100}, 2, 1, 128},
                                 {{0, 40}, 2, 1, 130}};

struct Problem {
  Case c;
  DType dtype;
  Both q, k, v, d_o, o, lse, dq, dk, dv;
  Problem(const Case& which, DType type, double size = 1.0) : c(which), dtype(type) {
    const std::int64_t tokens = c.offsets.empty() ? 0 : c.offsets.back();
    const Shape wide{tokens, c.heads, c.width}, narrow{tokens, c.kv_heads, c.width};
    q = both(wide, dtype, 1, size);
    k = both(narrow, dtype, 2, size);
    v = both(narrow, dtype, 3);
    d_o = both(wide, dtype, 4);
    o = poisoned(wide, dtype);
    lse = poisoned({tokens, c.heads}, DType::float32);
    dq = poisoned(wide, dtype);
    dk = poisoned(narrow, dtype);
    dv = poisoned(narrow, dtype);
  }
  double scale() const { return 1.0 / std::sqrt(double(c.width)); }
  void run() {
    ops::attention_forward(o.gpu.view(), lse.gpu.view(), q.gpu.view(), k.gpu.view(), v.gpu.view(), c.offsets,
                           scale(), gpu_stream());
    ops::attention_backward(dq.gpu.view(), dk.gpu.view(), dv.gpu.view(), d_o.gpu.view(), o.gpu.view(),
                            q.gpu.view(), k.gpu.view(), v.gpu.view(), lse.gpu.view(), c.offsets, scale(),
                            gpu_stream());
  }
  void run_reference() {
    ops::reference::attention_forward(o.exact.view(), lse.exact.view(), q.exact.view(), k.exact.view(),
                                      v.exact.view(), c.offsets, scale(), cpu_stream());
    ops::reference::attention_backward(dq.exact.view(), dk.exact.view(), dv.exact.view(), d_o.exact.view(),
                                       o.exact.view(), q.exact.view(), k.exact.view(), v.exact.view(),
                                       lse.exact.view(), c.offsets, scale(), cpu_stream());
  }
};
}  // namespace

BOOST_AUTO_TEST_CASE(equals_the_plain_loops) {
  for (const DType dtype : fast_dtypes) {
    for (const Case& c : cases) {
      Problem p(c, dtype);
      p.run();
      p.run_reference();
      // In float32 a few hundred terms of size 1. With tensor cores probabilities and score gradients are
      // rounded to bfloat16 (2^-9 each) before they are multiplied by values of size up to 4, and o, which
      // delta is made of, is stored rounded: errors of up to ~2^-9 times the sum of |terms|. That sum is at
      // most 4 for o (weights add up to 1) and, for the gradients here, up to ~16 (grouped heads, a key seen
      // by many queries).
      const bool rounded = dtype == DType::bfloat16;
      const Tolerance forward = rounded ? Tolerance{0.008, 0.008} : gpu_tolerance(dtype, 200);
      const Tolerance backward = rounded ? Tolerance{0.03, 0.01} : gpu_tolerance(dtype, 800);
      const std::string name = "width " + std::to_string(c.width);
      check_gpu("o, " + name, p.o, forward);
      check_gpu("lse, " + name, p.lse, gpu_tolerance(DType::float32, 50));
      check_gpu("dq, " + name, p.dq, backward);
      check_gpu("dk, " + name, p.dk, backward);
      check_gpu("dv, " + name, p.dv, backward);
    }
  }
}

BOOST_AUTO_TEST_CASE(later_tokens_do_not_matter) {
  for (const DType dtype : fast_dtypes) {
    Problem p({{0, 150}, 2, 1, 16}, dtype);
    p.run();
    const Tensor before = from_gpu(p.o.gpu);
    Tensor k = from_gpu(p.k.gpu), v = from_gpu(p.v.gpu);
    const std::int64_t first = 100 * 16 * size_of(dtype);
    for (Tensor* x : {&k, &v}) {  // 4e3 in either type
      Stream cpu;
      ops::fill(x->view().rows(100, 50), 4096.0, cpu);
    }
    p.k.gpu = on_gpu(k);
    p.v.gpu = on_gpu(v);
    p.run();
    const Tensor after = from_gpu(p.o.gpu);
    BOOST_TEST(std::memcmp(before.view().raw(), after.view().raw(), static_cast<std::size_t>(2 * first)) ==
               0);
    BOOST_TEST(!same_bits(before, after));
  }
}

BOOST_AUTO_TEST_CASE(large_scores_do_not_overflow) {
  for (const DType dtype : fast_dtypes) {
    Problem p({{0, 90}, 2, 2, 32}, dtype, 30.0);
    p.run();
    for (const Both* x : {&p.o, &p.lse, &p.dq, &p.dk, &p.dv}) {
      for (const double value : values(from_gpu(x->gpu).view())) BOOST_REQUIRE(std::isfinite(value));
    }
  }
}

BOOST_AUTO_TEST_CASE(same_bits_every_time) {
  Problem p({{0, 70, 130}, 4, 2, 64}, DType::bfloat16);
  for (Both* x : {&p.dq, &p.dk, &p.dv}) {
    BOOST_TEST(repeats_bits([&] {
      p.run();
      return from_gpu(x->gpu);
    }));
  }
}

// Two continuations of a context of 70 rows, one without queries and one of an empty context; keys of
// continuations lie apart from it, in other places than their queries.
BOOST_AUTO_TEST_CASE(keys_before_the_own) {
  const std::vector<ops::PrefixedSequence> sequences = {
      {0, 66, 0, 70, 70}, {66, 0, 0, 70, 136}, {66, 9, 0, 70, 140}, {75, 5, 0, 0, 150}};
  for (const DType dtype : fast_dtypes) {
    for (const std::int64_t width : {1, 24, 130}) {
      const Both q = both({80, 4, width}, dtype, 1), k = both({160, 2, width}, dtype, 2),
                 v = both({160, 2, width}, dtype, 3);
      Both o = poisoned({80, 4, width}, dtype);
      ops::attention_prefixed_forward(o.gpu.view(), q.gpu.view(), k.gpu.view(), v.gpu.view(), sequences, 0.1,
                                      gpu_stream());
      ops::reference::attention_prefixed_forward(o.exact.view(), q.exact.view(), k.exact.view(),
                                                 v.exact.view(), sequences, 0.1, cpu_stream());
      check_gpu("o", o, gpu_tolerance(dtype, 200));
    }
  }
  const Both q = both({0, 4, 8}, DType::float32, 1), k = both({9, 2, 8}, DType::float32, 2);
  Both o = poisoned({0, 4, 8}, DType::float32);
  ops::attention_prefixed_forward(o.gpu.view(), q.gpu.view(), k.gpu.view(), k.gpu.view(), {}, 0.1,
                                  gpu_stream());
}

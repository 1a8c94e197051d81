// Causal grouped-query attention over packed sequences.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "support/compare.hpp"
#include "support/gradcheck.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {
Stream stream;
constexpr DType f64 = DType::float64;
using Offsets = std::vector<std::int64_t>;
struct Case {
  Offsets offsets;
  std::int64_t heads, kv_heads, width;
};
// Empty batch, empty and single-token sequences, blocks of 64 queries met exactly and not, grouped heads.
const std::vector<Case> cases = {{{}, 2, 1, 8},
                                 {{0}, 2, 1, 8},
                                 {{0, 0, 1, 1, 4}, 1, 1, 1},
                                 {{0, 13, 13, 30}, 6, 2, 5},
                                 {{0, 128, 256}, 4, 2, 32},
                                 {{0, 63, 127, 192}, 3, 3, 16},
                                 {{0, 1, 198}, 4, 1, 67}};

struct Problem {
  Case c;
  DType dtype;
  Tensor q, k, v, d_o;
  Problem(const Case& which, DType type, double size = 1.0) : c(which), dtype(type) {
    const std::int64_t tokens = c.offsets.empty() ? 0 : c.offsets.back();
    q = random_tensor({tokens, c.heads, c.width}, dtype, 1, size);
    k = random_tensor({tokens, c.kv_heads, c.width}, dtype, 2, size);
    v = random_tensor({tokens, c.kv_heads, c.width}, dtype, 3);
    d_o = random_tensor({tokens, c.heads, c.width}, dtype, 4);
  }
  double scale() const { return 1.0 / std::sqrt(double(c.width)); }
  Tensor lse() const { return Tensor({q.shape()[0], c.heads}, accumulator_of(dtype)); }
};

std::vector<Tensor> run_all(const Problem& p) {
  std::vector<Tensor> out;
  out.emplace_back(p.q.shape(), p.dtype);
  out.push_back(p.lse());
  for (const Shape& shape : {p.q.shape(), p.k.shape(), p.k.shape()}) out.emplace_back(shape, p.dtype);
  ops::attention_forward(out[0].view(), out[1].view(), p.q.view(), p.k.view(), p.v.view(), p.c.offsets,
                         p.scale(), stream);
  ops::attention_backward(out[2].view(), out[3].view(), out[4].view(), p.d_o.view(), out[0].view(),
                          p.q.view(), p.k.view(), p.v.view(), out[1].view(), p.c.offsets, p.scale(), stream);
  return out;
}

// Two continuations of a context of 70 rows and one of an empty context; their keys lie apart from it, in
// other places than their queries.
const std::vector<ops::PrefixedSequence> continuations = {
    {0, 66, 0, 70, 70}, {66, 0, 0, 70, 136}, {66, 9, 0, 70, 140}, {75, 5, 0, 0, 150}};
constexpr std::int64_t prefixed_queries = 80, prefixed_keys = 160;

struct PrefixedProblem {
  Tensor q, k, v;
  explicit PrefixedProblem(DType dtype)
      : q(random_tensor({prefixed_queries, 4, 24}, dtype, 1)),
        k(random_tensor({prefixed_keys, 2, 24}, dtype, 2)),
        v(random_tensor({prefixed_keys, 2, 24}, dtype, 3)) {}
  Tensor run(decltype(ops::attention_prefixed_forward)& kernel) const {
    Tensor o(q.shape(), q.dtype());
    kernel(o.view(), q.view(), k.view(), v.view(), continuations, 0.2, stream);
    return o;
  }
};

// The same by copying context and continuation into one sequence for attention_forward.
Tensor one_after_another(const PrefixedProblem& p) {
  const DType dtype = p.q.dtype();
  Tensor o(p.q.shape(), dtype);
  for (const ops::PrefixedSequence& s : continuations) {
    const std::int64_t length = s.prefix_length + s.length;
    Tensor q({length, 4, 24}, dtype), k({length, 2, 24}, dtype), v(k.shape(), dtype), out(q.shape(), dtype),
        lse({length, 4}, accumulator_of(dtype));
    ops::fill(q.view(), 0.0, stream);
    copy(q.view().rows(s.prefix_length, s.length), p.q.view().rows(s.first, s.length), stream);
    for (const auto& [to, from] : {std::pair{&k, &p.k}, std::pair{&v, &p.v}}) {
      copy(to->view().rows(0, s.prefix_length), from->view().rows(s.prefix, s.prefix_length), stream);
      copy(to->view().rows(s.prefix_length, s.length), from->view().rows(s.own, s.length), stream);
    }
    ops::reference::attention_forward(out.view(), lse.view(), q.view(), k.view(), v.view(),
                                      Offsets{0, length}, 0.2, stream);
    copy(o.view().rows(s.first, s.length), out.view().rows(s.prefix_length, s.length), stream);
  }
  return o;
}
}  // namespace

BOOST_AUTO_TEST_CASE(a_prefix_is_seen_as_the_beginning_of_the_sequence) {
  const PrefixedProblem exact(f64);
  BOOST_TEST((values(exact.run(ops::attention_prefixed_forward).view()) ==
              values(one_after_another(exact).view())));  // the same loops over the same keys
  for (const DType dtype : fast_dtypes) {
    const PrefixedProblem p(dtype);
    const Tensor fast = p.run(ops::attention_prefixed_forward);
    check_close("reference", fast, p.run(ops::reference::attention_prefixed_forward), Kind::sum);
    check_close("one sequence", fast, one_after_another(p), Kind::sum);
    check_thread_invariant("prefixed", [&] {
      std::vector<Tensor> out;
      out.push_back(p.run(ops::attention_prefixed_forward));
      return out;
    });
  }
}

BOOST_AUTO_TEST_CASE(keys_outside_of_the_tensor_are_refused) {
  const PrefixedProblem p(DType::float32);
  Tensor o(p.q.shape(), DType::float32);
  const auto run = [&](std::vector<ops::PrefixedSequence> sequences) {
    ops::attention_prefixed_forward(o.view(), p.q.view(), p.k.view(), p.v.view(), sequences, 1.0, stream);
  };
  run({{0, 80, 0, 160, 80}});
  for (const ops::PrefixedSequence& bad : std::vector<ops::PrefixedSequence>{{0, 80, 1, 160, 80},
                                                                             {0, 80, 0, 160, 81},
                                                                             {0, 79, 0, 160, 80},
                                                                             {1, 79, 0, 160, 80},
                                                                             {0, 80, -1, 1, 0}})
    BOOST_CHECK_THROW(run({bad}), Error);
}

BOOST_AUTO_TEST_CASE(by_hand) {
  // One head of width 1, scale 1. Token 0 sees itself; token 1 has scores (0, ln 3): weights (1/4, 3/4).
  const double log3 = std::log(3.0);
  const Tensor q = make_tensor<double>({5, 1}, {2, 1, 1}), k = make_tensor<double>({0, log3}, {2, 1, 1});
  const Tensor v = make_tensor<double>({8, 4}, {2, 1, 1});
  Tensor o({2, 1, 1}, f64), lse({2, 1}, f64);
  ops::attention_forward(o.view(), lse.view(), q.view(), k.view(), v.view(), Offsets{0, 2}, 1.0, stream);
  check_close("o", values(o.view()), {8, 5}, tolerance(Kind::golden, f64));
  check_close("lse", values(lse.view()), {0, std::log(4.0)}, tolerance(Kind::golden, f64));
  // The same tokens as two sequences do not see each other.
  ops::attention_forward(o.view(), lse.view(), q.view(), k.view(), v.view(), Offsets{0, 1, 2}, 1.0, stream);
  check_close("o", values(o.view()), {8, 4}, tolerance(Kind::golden, f64));
}

BOOST_AUTO_TEST_CASE(gradients) {
  Problem p({{0, 3, 3, 7}, 4, 2, 3}, f64);
  const std::vector<Tensor> out = run_all(p);
  const auto loss = [&] {
    Tensor o(p.q.shape(), f64), lse = p.lse();
    ops::attention_forward(o.view(), lse.view(), p.q.view(), p.k.view(), p.v.view(), p.c.offsets, p.scale(),
                           stream);
    return weighted_sum(p.d_o, o);
  };
  check_gradient("dq", loss, p.q, out[2]);
  check_gradient("dk", loss, p.k, out[3]);
  check_gradient("dv", loss, p.v, out[4]);
}

BOOST_AUTO_TEST_CASE(fast_equals_reference) {
  for (const DType dtype : fast_dtypes) {
    for (const Case& c : cases) {
      const Problem p(c, dtype);
      const std::vector<Tensor> fast = run_all(p);
      Tensor o(p.q.shape(), dtype), lse = p.lse(), dq(p.q.shape(), dtype), dk(p.k.shape(), dtype),
                                    dv(p.k.shape(), dtype);
      ops::reference::attention_forward(o.view(), lse.view(), p.q.view(), p.k.view(), p.v.view(), c.offsets,
                                        p.scale(), stream);
      check_close("o", fast[0], o, Kind::sum);
      check_close("lse", fast[1], lse, Kind::sum);
      // From the same o and lse, so that bfloat16 compares the backward alone.
      ops::reference::attention_backward(dq.view(), dk.view(), dv.view(), p.d_o.view(), fast[0].view(),
                                         p.q.view(), p.k.view(), p.v.view(), fast[1].view(), c.offsets,
                                         p.scale(), stream);
      check_close("dq", fast[2], dq, Kind::sum);
      check_close("dk", fast[3], dk, Kind::sum);
      check_close("dv", fast[4], dv, Kind::sum);
    }
  }
}

BOOST_AUTO_TEST_CASE(later_tokens_do_not_matter) {
  Problem p({{0, 150}, 2, 1, 16}, DType::float32);
  const std::vector<Tensor> before = run_all(p);
  for (std::int64_t i = 100 * 16; i < 150 * 16; ++i) p.k.data<float>()[i] = p.v.data<float>()[i] = 1e4F;
  const std::vector<Tensor> after = run_all(p);
  BOOST_TEST(std::memcmp(before[0].data<float>(), after[0].data<float>(), 100 * 2 * 16 * sizeof(float)) == 0);
  BOOST_TEST(before[0].data<float>()[100 * 2 * 16] != after[0].data<float>()[100 * 2 * 16]);
}

BOOST_AUTO_TEST_CASE(large_scores_do_not_overflow) {
  for (const Tensor& x : run_all(Problem({{0, 90}, 2, 2, 32}, DType::float32, 30.0))) {
    for (const double value : values(x.view())) BOOST_REQUIRE(std::isfinite(value));
  }
}

BOOST_AUTO_TEST_CASE(same_bits_on_any_number_of_threads) {
  for (const DType dtype : fast_dtypes) {
    check_thread_invariant("attention", [&] { return run_all(Problem(cases[4], dtype)); });
    check_thread_invariant("attention", [&] { return run_all(Problem(cases[5], dtype)); });
  }
}

BOOST_AUTO_TEST_CASE(wrong_offsets_are_refused) {
  Problem p({{0, 4}, 2, 1, 8}, DType::float32);
  for (const Offsets& bad : {Offsets{}, Offsets{0, 3}, Offsets{1, 4}, Offsets{0, 5, 4}}) {
    p.c.offsets = bad;
    BOOST_CHECK_THROW(run_all(p), Error);
  }
}

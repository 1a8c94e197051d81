// Router, auxiliary losses (METHOD 13 goldens), gather and combine.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/ops/pooling.hpp"
#include "support/compare.hpp"
#include "support/gradcheck.hpp"

using namespace nmoe;
using namespace nmoe::test;
using ops::LprForm;

namespace {
Stream stream;
constexpr DType f64 = DType::float64;

struct Routed {
  Tensor probs, weights, indices;
};
Routed route(const Tensor& logits, std::int64_t top_k, bool normalise = true) {
  const std::int64_t tokens = logits.shape()[0], experts = logits.shape()[1];
  Routed r{Tensor({tokens, experts}, logits.dtype()), Tensor({tokens, top_k}, logits.dtype()),
           Tensor({tokens, top_k}, DType::int32)};
  ops::route_forward(r.probs.view(), r.weights.view(), r.indices.view(), logits.view(), normalise, stream);
  return r;
}
Tensor golden_logits() {
  return make_tensor<double>({1, 0, -1, 0.5, 2, 0, 0, 0, 3, 2, 1, 0}, {4, 3});
}
Tensor ones_mask(std::int64_t tokens) {
  return make_tensor<std::uint8_t>(std::vector<std::uint8_t>(static_cast<std::size_t>(tokens), 1), {tokens});
}
double balancing_loss(TensorView dprobs, const Routed& r, double grad_scale) {
  double loss = -1.0;
  ops::load_balancing_loss({&loss, f64, {1}}, dprobs, r.probs.view(), r.indices.view(), grad_scale, stream);
  return loss;
}
double lpr_sum(TensorView dprobs, const Routed& r, const Tensor& mask, LprForm form, double grad_scale) {
  double loss = -1.0;
  ops::lpr_loss_sum({&loss, f64, {1}}, dprobs, r.probs.view(), mask.view(), form, grad_scale, stream);
  return loss;
}
double lpr(const Tensor& logits, LprForm form) {
  const Routed r = route(logits, 1);
  return lpr_sum({}, r, ones_mask(logits.shape()[0]), form, 0.0) / double(logits.shape()[0]);
}
constexpr double exact = 2e-15;  // METHOD 13 prints 16 to 17 digits
}  // namespace

BOOST_AUTO_TEST_CASE(router_golden) {
  const Routed r = route(make_tensor<double>({1, 0, -1}, {1, 3}), 2);
  check_close("probs", values(r.probs.view()), {0.6652409557748218, 0.24472847105479764, 0.09003057317038046},
              tolerance(Kind::golden, f64));
  check_close("weights", values(r.weights.view()), {0.7310585786300048, 0.26894142136999516},
              tolerance(Kind::golden, f64));
  BOOST_TEST(values(r.indices.view()) == (std::vector<double>{0, 1}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(ties_go_to_the_lower_id, *boost::unit_test::label("trap_08")) {
  for (const DType dtype : {f64, DType::float32}) {
    Tensor logits({3, 5}, dtype);
    const Tensor wanted = make_tensor<double>({0, 0, 0, 0, 0, 1, 7, 3, 7, 7, 2, 2, 1, 2, 3}, {3, 5});
    ops::cast(logits.view(), wanted.view(), stream);
    const Routed r = route(logits, 3);
    BOOST_TEST(values(r.indices.view()) == (std::vector<double>{0, 1, 2, 1, 3, 4, 4, 0, 1}),
               boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(all_experts_and_one_expert, *boost::unit_test::label("trap_10")) {
  const Tensor logits = random_tensor({7, 4}, f64, 1);
  const Routed all = route(logits, 4);  // K = E: weights are the sorted probabilities
  const Routed raw = route(logits, 1, false), one = route(logits, 1, true);
  for (std::int64_t t = 0; t < 7; ++t) {
    double total = 0, largest = 0;
    for (std::int64_t j = 0; j < 4; ++j) {
      const double p = all.probs.data<double>()[t * 4 + all.indices.data<std::int32_t>()[t * 4 + j]];
      BOOST_TEST(all.weights.data<double>()[t * 4 + j] == p, boost::test_tools::tolerance(1e-15));
      if (j > 0)
        BOOST_TEST(all.weights.data<double>()[t * 4 + j] <= all.weights.data<double>()[t * 4 + j - 1]);
      total += all.weights.data<double>()[t * 4 + j];
      largest = std::max(largest, p);
    }
    BOOST_TEST(total == 1.0, boost::test_tools::tolerance(1e-15));
    BOOST_TEST(raw.weights.data<double>()[t] == largest);  // k = 1 keeps the probability
    BOOST_TEST(one.weights.data<double>()[t] == 1.0);
  }
  // Two experts, two choices: w = p.
  const Routed two = route(make_tensor<double>({0.3, 0.9}, {1, 2}), 2);
  BOOST_TEST(two.weights.data<double>()[0] == two.probs.data<double>()[1],
             boost::test_tools::tolerance(1e-15));
  Tensor w({7, 5}, f64), ids({7, 5}, DType::int32), probs({7, 4}, f64);
  BOOST_CHECK_THROW(ops::route_forward(probs.view(), w.view(), ids.view(), logits.view(), true, stream),
                    Error);
}

BOOST_AUTO_TEST_CASE(nan_logits_give_valid_indices) {
  const Routed r = route(make_tensor<float>({NAN, 1, 2, 1, 2, 3}, {2, 3}), 2);
  for (int j = 0; j < 2; ++j) {
    BOOST_TEST(std::isnan(r.weights.data<float>()[j]));
    BOOST_TEST((r.indices.data<std::int32_t>()[j] >= 0 && r.indices.data<std::int32_t>()[j] < 3));
    BOOST_TEST(std::isfinite(r.weights.data<float>()[2 + j]));
  }
  BOOST_TEST(r.indices.data<std::int32_t>()[0] != r.indices.data<std::int32_t>()[1]);
}

BOOST_AUTO_TEST_CASE(load_balancing_goldens) {
  const Routed r = route(golden_logits(), 2);
  BOOST_TEST(std::abs(balancing_loss({}, r, 0) - 2.0928293351412597) < exact);
  for (const std::int64_t experts : {2, 3, 6}) {  // uniform logits: k
    const Routed u = route(Tensor({5, experts}, f64), 2);
    BOOST_TEST(std::abs(balancing_loss({}, u, 0) - 2) < exact);
  }
  const Routed two = route(random_tensor({9, 2}, f64, 1), 2);  // E = 2, k = 2: always 2, and no gradient
  Tensor dprobs({9, 2}, f64), dlogits({9, 2}, f64), zero({9, 2}, f64);
  BOOST_TEST(std::abs(balancing_loss(dprobs.view(), two, 1) - 2) < exact);
  ops::route_backward(dlogits.view(), zero.view(), dprobs.view(), two.probs.view(), two.weights.view(),
                      two.indices.view(), true, stream);
  for (const double g : values(dlogits.view())) BOOST_TEST(std::abs(g) < 1e-16);
  const Routed none = route(Tensor({0, 3}, f64), 2);
  BOOST_TEST(balancing_loss({}, none, 1) == 0.0);
}

BOOST_AUTO_TEST_CASE(language_prior_goldens) {
  const Tensor rows = make_tensor<double>({1, -1, 0.3, 0.9}, {2, 2});
  const double a = lpr(golden_logits(), LprForm::double_softmax), b = lpr(rows, LprForm::double_softmax);
  const double c = lpr(golden_logits(), LprForm::nll), d = lpr(rows, LprForm::nll);
  BOOST_TEST(std::abs(a - 1.095149245147336) < exact);
  BOOST_TEST(std::abs(c - 1.4291226493847171) < exact);
  BOOST_TEST(std::abs(b - 0.6162700235823536) < exact);
  BOOST_TEST(std::abs(d - 0.5822079807644293) < exact);
  BOOST_TEST(std::abs((a + b) / 2 - 0.8557096343648447) < exact);
  BOOST_TEST(std::abs((c + d) / 2 - 1.0056653150745731) < exact);
  for (const std::int64_t experts : {2, 6}) {  // a uniform router costs log E in both forms
    const Tensor uniform({3, experts}, f64);
    BOOST_TEST(std::abs(lpr(uniform, LprForm::double_softmax) - std::log(double(experts))) < exact);
    BOOST_TEST(std::abs(lpr(uniform, LprForm::nll) - std::log(double(experts))) < exact);
  }
  // Certain of expert 0: the least double softmax reaches is log(e + E − 1) − 1.
  BOOST_TEST(std::abs(lpr(make_tensor<double>({2000, 0}, {1, 2}), LprForm::double_softmax) -
                      0.3132616875182228) < exact);
  // No masked token: 0, and nothing added. A probability of 0 stays finite.
  const Routed r = route(golden_logits(), 2);
  Tensor mask({4}, DType::uint8), dprobs({4, 3}, f64);
  for (const LprForm form : {LprForm::double_softmax, LprForm::nll}) {
    BOOST_TEST(lpr_sum(dprobs.view(), r, mask, form, 1) == 0.0);
    for (const double g : values(dprobs.view())) BOOST_TEST(g == 0.0);
    BOOST_TEST(std::isfinite(lpr(make_tensor<float>({-500, 500}, {1, 2}), form)));
  }
}

BOOST_AUTO_TEST_CASE(router_gradients) {
  const std::int64_t tokens = 6, experts = 4;
  for (const std::int64_t top_k : {1, 2, 4}) {
    for (const bool normalise : {false, true}) {
      if (top_k == 1 && normalise) continue;  // weights are constant 1
      Tensor logits = random_tensor({tokens, experts}, f64, 1, 2.0);
      const Tensor c = random_tensor({tokens, top_k}, f64, 2);
      const Tensor mask = make_tensor<std::uint8_t>({1, 0, 1, 1, 0, 1}, {tokens});
      for (const LprForm form : {LprForm::double_softmax, LprForm::nll}) {
        const auto loss = [&] {
          const Routed r = route(logits, top_k, normalise);
          return weighted_sum(c, r.weights) + 0.7 * balancing_loss({}, r, 0) +
                 0.3 * lpr_sum({}, r, mask, form, 0);
        };
        const Routed r = route(logits, top_k, normalise);
        Tensor dprobs({tokens, experts}, f64), dlogits({tokens, experts}, f64);
        balancing_loss(dprobs.view(), r, 0.7);
        lpr_sum(dprobs.view(), r, mask, form, 0.3);
        ops::route_backward(dlogits.view(), c.view(), dprobs.view(), r.probs.view(), r.weights.view(),
                            r.indices.view(), normalise, stream);
        check_gradient("dlogits", loss, logits, dlogits);
      }
      // Without auxiliary losses.
      const Routed r = route(logits, top_k, normalise);
      Tensor dlogits({tokens, experts}, f64);
      ops::route_backward(dlogits.view(), c.view(), {}, r.probs.view(), r.weights.view(), r.indices.view(),
                          normalise, stream);
      check_gradient(
          "dlogits", [&] { return weighted_sum(c, route(logits, top_k, normalise).weights); }, logits,
          dlogits);
    }
  }
}

BOOST_AUTO_TEST_CASE(combine_by_hand) {
  // Token 0: expert 3 (row 1) is its first choice, expert 0 (row 0) the second; token 1 has one slot
  // elsewhere.
  const Tensor rows = make_tensor<float>({1, 2, 10, 20, 100, 200}, {3, 2});
  const Tensor slots = make_tensor<std::int32_t>({1, 0, 2, -1}, {2, 2});
  const Tensor ids = make_tensor<std::int32_t>({3, 0, 1, 2}, {2, 2});
  const Tensor w = make_tensor<float>({0.5, 0.25, 2, 7}, {2, 2});
  Tensor y({2, 2}, DType::float32);
  ops::combine_forward(y.view(), rows.view(), slots.view(), ids.view(), w.view(), false, stream);
  BOOST_TEST(values(y.view()) == (std::vector<double>{5.25, 10.5, 200, 400}),
             boost::test_tools::per_element());
  ops::combine_forward(y.view(), rows.view(), slots.view(), ids.view(), {}, true, stream);
  BOOST_TEST(values(y.view()) == (std::vector<double>{16.25, 32.5, 300, 600}),
             boost::test_tools::per_element());
  const Tensor dy = make_tensor<float>({1, -1, 2, 0}, {2, 2});
  Tensor drows({3, 2}, DType::float32), dw = make_tensor<float>({9, 9, 9, 9}, {2, 2});
  ops::combine_backward(drows.view(), dw.view(), dy.view(), rows.view(), slots.view(), w.view(), stream);
  BOOST_TEST(values(drows.view()) == (std::vector<double>{0.25, -0.25, 0.5, -0.5, 4, 0}),
             boost::test_tools::per_element());
  BOOST_TEST(values(dw.view()) == (std::vector<double>{-10, -1, 200, 0}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(combine_takes_experts_in_ascending_order, *boost::unit_test::label("trap_09")) {
  // 1 + 2^-24 + 2^-24 is 1 in float32 from the left, 1 + 2^-23 from the right: the order shows.
  const float small = 0x1p-24F;
  const Tensor rows = make_tensor<float>({1, small, small}, {3, 1});
  const Tensor slots = make_tensor<std::int32_t>({0, 1, 2, 0, 1, 2}, {2, 3});
  const Tensor ids = make_tensor<std::int32_t>({0, 4, 2, 5, 4, 2}, {2, 3});
  Tensor y({2, 1}, DType::float32);
  ops::combine_forward(y.view(), rows.view(), slots.view(), ids.view(), {}, false, stream);
  BOOST_TEST(y.data<float>()[0] == 1.0F);
  BOOST_TEST(y.data<float>()[1] == 1.0F + 0x1p-23F);
}

BOOST_AUTO_TEST_CASE(gather_and_combine_gradients) {
  // Slots in a shuffled order of rows, one of them dropped.
  const std::int64_t tokens = 5, top_k = 2, width = 3;
  const Tensor slots = make_tensor<std::int32_t>({4, 0, 2, 7, -1, 1, 8, 3, 5, 6}, {tokens, top_k});
  const Tensor ids = make_tensor<std::int32_t>({2, 0, 1, 3, 0, 1, 3, 1, 2, 0}, {tokens, top_k});
  std::vector<std::int32_t> owner(9);
  for (int s = 0; s < 10; ++s) {
    if (slots.data<std::int32_t>()[s] >= 0)
      owner[static_cast<std::size_t>(slots.data<std::int32_t>()[s])] = s / 2;
  }
  const Tensor token_of_row = make_tensor<std::int32_t>(owner, {9});
  Tensor x = random_tensor({tokens, width}, f64, 1), rows({9, width}, f64);
  const Tensor c = random_tensor({9, width}, f64, 2), c2 = random_tensor({tokens, width}, f64, 3);
  Tensor dx({tokens, width}, f64);
  ops::combine_forward(dx.view(), c.view(), slots.view(), ids.view(), {}, false, stream);
  check_gradient(
      "gather",
      [&] {
        ops::gather_rows(rows.view(), x.view(), token_of_row.view(), stream);
        return weighted_sum(c, rows);
      },
      x, dx);
  Tensor values_of_rows = random_tensor({9, width}, f64, 4), w = random_tensor({tokens, top_k}, f64, 5);
  Tensor y({tokens, width}, f64), drows({9, width}, f64), dw({tokens, top_k}, f64);
  const auto loss = [&] {
    ops::combine_forward(y.view(), values_of_rows.view(), slots.view(), ids.view(), w.view(), false, stream);
    return weighted_sum(c2, y);
  };
  ops::combine_backward(drows.view(), dw.view(), c2.view(), values_of_rows.view(), slots.view(), w.view(),
                        stream);
  check_gradient("drows", loss, values_of_rows, drows);
  check_gradient("dweights", loss, w, dw);
  const Tensor outside = make_tensor<std::int32_t>({0, 0, 0, 0, 0, 0, 0, 0, 5}, {9});
  BOOST_CHECK_THROW(ops::gather_rows(rows.view(), x.view(), outside.view(), stream), Error);
}

namespace {
struct Slots {
  Tensor row_of_slot, indices, weights;
  std::int64_t num_rows = 0;
};
// Rows in slot order, every fifth slot on another rank.
Slots make_slots(std::int64_t tokens, std::int64_t top_k) {
  Slots s{Tensor({tokens, top_k}, DType::int32), random_ids({tokens, top_k}, 6, 1),
          random_tensor({tokens, top_k}, DType::float32, 2)};
  for (std::int64_t i = 0; i < tokens * top_k; ++i) {
    s.row_of_slot.data<std::int32_t>()[i] = i % 5 == 4 ? -1 : static_cast<std::int32_t>(s.num_rows++);
  }
  return s;
}
}  // namespace

BOOST_AUTO_TEST_CASE(fast_equals_reference) {
  for (const DType dtype : fast_dtypes) {
    for (const std::int64_t tokens : {0, 1, 7, 211}) {
      for (const std::int64_t top_k : {1, 2, 5}) {
        for (const std::int64_t width : {1, 16, 131}) {
          const Slots s = make_slots(tokens, top_k);
          const Tensor rows = random_tensor({s.num_rows, width}, dtype, 3);
          const Tensor dy = random_tensor({tokens, width}, dtype, 4);
          for (const ConstTensorView w : {ConstTensorView{}, s.weights.view()}) {
            for (const bool accumulate : {false, true}) {
              Tensor y = random_tensor({tokens, width}, dtype, 5), y2 = copy_of(y);
              ops::combine_forward(y.view(), rows.view(), s.row_of_slot.view(), s.indices.view(), w,
                                   accumulate, stream);
              ops::reference::combine_forward(y2.view(), rows.view(), s.row_of_slot.view(), s.indices.view(),
                                              w, accumulate, stream);
              check_close("y", y, y2, Kind::elementwise);
            }
          }
          Tensor d(rows.shape(), dtype), d2(rows.shape(), dtype);
          Tensor dw({tokens, top_k}, DType::float32), dw2({tokens, top_k}, DType::float32);
          ops::combine_backward(d.view(), dw.view(), dy.view(), rows.view(), s.row_of_slot.view(),
                                s.weights.view(), stream);
          ops::reference::combine_backward(d2.view(), dw2.view(), dy.view(), rows.view(),
                                           s.row_of_slot.view(), s.weights.view(), stream);
          check_close("drows", d, d2, Kind::elementwise);
          check_close("dweights", dw, dw2, Kind::sum);
          const Tensor from = random_ids({tokens > 0 ? 307 : 0}, std::max<std::int64_t>(tokens, 1), 6);
          Tensor g({from.num_elements(), width}, dtype), g2({from.num_elements(), width}, dtype);
          ops::gather_rows(g.view(), dy.view(), from.view(), stream);
          ops::reference::gather_rows(g2.view(), dy.view(), from.view(), stream);
          BOOST_TEST(same_bits(g, g2));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(row_groups_by_hand) {
  const Tensor x = make_tensor<float>({3, -4, 0, 0, 6, 8}, {3, 2}),
               rows = make_tensor<std::int32_t>({2, 0, 1}, {3}),
               begins = make_tensor<std::int32_t>({0, 2, 2, 3}, {4});
  const ops::RowGroups groups{rows.view(), begins.view()};
  Tensor sums({3, 2}, DType::float32), counts({3, 2}, DType::int64), directions({3, 2}, DType::int64),
      lengths({3}, DType::int64);
  counts.data<std::int64_t>()[5] = 7;
  ops::sum_groups(sums.view(), x.view(), groups, stream);
  ops::count_positive(counts.view(), x.view(), groups, stream);
  ops::add_directions(directions.view(), lengths.view(), x.view(), groups, 1000.0, stream);
  BOOST_TEST(values(sums.view()) == (std::vector<double>{9, 4, 0, 0, 0, 0}),
             boost::test_tools::per_element());
  const auto integers = [](const Tensor& t) {
    return std::vector<std::int64_t>(t.data<std::int64_t>(), t.data<std::int64_t>() + t.num_elements());
  };
  BOOST_TEST(integers(counts) == (std::vector<std::int64_t>{2, 1, 0, 0, 0, 7}),
             boost::test_tools::per_element());
  // (0.6, 0.8) + (0.6, -0.8), and the zero vector has no direction
  BOOST_TEST(integers(directions) == (std::vector<std::int64_t>{1200, 0, 0, 0, 0, 0}),
             boost::test_tools::per_element());
  BOOST_TEST(integers(lengths) == (std::vector<std::int64_t>{2, 0, 0}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(row_groups_fast_equals_reference) {
  for (const DType dtype : {f64, DType::float32, DType::bfloat16}) {
    for (const std::int64_t tokens : {0, 1, 503}) {
      const Tensor x = random_tensor({tokens, 1031}, dtype, 1);
      Tensor rows({tokens}, DType::int32);
      for (std::int64_t i = 0; i < tokens; ++i)
        rows.data<std::int32_t>()[i] = static_cast<std::int32_t>((i * 7) % tokens);
      const auto third = static_cast<std::int32_t>(tokens / 3);
      const Tensor begins =
          make_tensor<std::int32_t>({0, third, third, static_cast<std::int32_t>(tokens)}, {4});
      const ops::RowGroups groups{rows.view(), begins.view()};
      check_thread_invariant("row groups", [&] {
        std::vector<Tensor> out;
        out.emplace_back(Shape{3, 1031}, accumulator_of(dtype));
        for (const Shape& shape : {Shape{3, 1031}, Shape{3, 1031}, Shape{3}})
          out.emplace_back(shape, DType::int64);
        std::vector<Tensor> plain;
        for (const Tensor& t : out) plain.push_back(copy_of(t));
        ops::sum_groups(out[0].view(), x.view(), groups, stream);
        ops::count_positive(out[1].view(), x.view(), groups, stream);
        ops::add_directions(out[2].view(), out[3].view(), x.view(), groups, 0x1.0p38, stream);
        ops::reference::sum_groups(plain[0].view(), x.view(), groups, stream);
        ops::reference::count_positive(plain[1].view(), x.view(), groups, stream);
        ops::reference::add_directions(plain[2].view(), plain[3].view(), x.view(), groups, 0x1.0p38, stream);
        for (std::size_t i = 0; i < out.size(); ++i) BOOST_TEST(same_bits(out[i], plain[i]));
        return out;
      });
    }
  }
}

BOOST_AUTO_TEST_CASE(same_bits_on_any_number_of_threads) {
  const Slots s = make_slots(701, 2);
  for (const DType dtype : fast_dtypes) {
    const Tensor rows = random_tensor({s.num_rows, 200}, dtype, 3), dy = random_tensor({701, 200}, dtype, 4);
    check_thread_invariant("moe", [&] {
      std::vector<Tensor> out;
      out.emplace_back(Shape{701, 200}, dtype);
      out.emplace_back(rows.shape(), dtype);
      out.emplace_back(Shape{701, 2}, DType::float32);
      ops::combine_forward(out[0].view(), rows.view(), s.row_of_slot.view(), s.indices.view(),
                           s.weights.view(), false, stream);
      ops::combine_backward(out[1].view(), out[2].view(), dy.view(), rows.view(), s.row_of_slot.view(),
                            s.weights.view(), stream);
      return out;
    });
  }
}

// AdamW and the squared norm.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "support/compare.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {
Stream stream;
constexpr DType f64 = DType::float64, f32 = DType::float32;

struct State {
  Tensor weight, master, exp_avg, exp_avg_sq;
  State(const std::vector<double>& w, DType dtype)
      : weight({std::int64_t(w.size())}, dtype),
        master({std::int64_t(w.size())}, accumulator_of(dtype)),
        exp_avg({std::int64_t(w.size())}, accumulator_of(dtype)),
        exp_avg_sq({std::int64_t(w.size())}, accumulator_of(dtype)) {
    ops::cast(master.view(), make_tensor(w, {std::int64_t(w.size())}).view(), stream);
  }
  void update(const Tensor& grad, const ops::AdamWStep& step) {
    ops::adamw_update(weight.view(), master.view(), exp_avg.view(), exp_avg_sq.view(), grad.view(), step,
                      stream);
  }
};

// Twenty steps with decay, clipping by 0.5 and a falling learning rate.
State twenty_steps(DType dtype) {
  State s({0.5, -1.25, 2.0, 0.0}, dtype);
  for (int t = 1; t <= 20; ++t) {
    Tensor exact({4}, f64), grad({4}, accumulator_of(dtype));
    for (int i = 0; i < 4; ++i) exact.data<double>()[i] = std::sin(1.3 * t + i) * (0.1 + i);
    ops::cast(grad.view(), exact.view(), stream);
    s.update(grad, {0.01 * (1 - (t - 1) / 40.0), 0.9, 0.999, 1e-8, 0.1, t, 0.5});
  }
  return s;
}
// From the published algorithm (Loshchilov & Hutter 2019, algorithm 2; torch.optim.AdamW's documentation) in
// Python floats, not from this code.
const std::vector<double> golden_w = {0.46669508149561584, -1.2371460077227534, 2.002042990560652,
                                      0.027601852776693567};
const std::vector<double> golden_m = {0.00046441364968203983, 0.03969283800683235, 0.07213254425347404,
                                      0.003202630344434368};
const std::vector<double> golden_v = {2.530760172124551e-05, 0.003058764095202716, 0.010492052589098558,
                                      0.024080864767603013};
}  // namespace

BOOST_AUTO_TEST_CASE(first_step_by_hand) {
  // m̂ = g and v̂ = g² after one step: w moves by lr·sign(g), and first shrinks by 1 − lr·wd.
  State s({2, 2, 2}, f64);
  s.update(make_tensor<double>({3, -5, 0}, {3}), {0.1, 0.9, 0.99, 0.0, 0.5, 1, 1.0});
  check_close("w", values(s.master.view()), {1.8, 2.0, NAN}, {1e-15, 1e-15});  // 0/0 without eps
  State t({2, 2, 2}, f64);
  t.update(make_tensor<double>({3, -5, 0}, {3}), {0.1, 0.9, 0.99, 1e-30, 0.5, 1, 1.0});
  check_close("w", values(t.master.view()), {1.8, 2.0, 1.9}, {1e-15, 1e-15});
  check_close("weight", values(t.weight.view()), values(t.master.view()), {0, 0});
}

BOOST_AUTO_TEST_CASE(twenty_steps_golden, *boost::unit_test::label("trap_19")) {
  const State exact = twenty_steps(f64);
  check_close("w", values(exact.master.view()), golden_w, {1e-15, 1e-14});
  check_close("m", values(exact.exp_avg.view()), golden_m, {1e-15, 1e-14});
  check_close("v", values(exact.exp_avg_sq.view()), golden_v, {1e-15, 1e-13});  // 1 − β₂ loses three digits
  for (const DType dtype : fast_dtypes) {
    const State s = twenty_steps(dtype);
    check_close("w", values(s.master.view()), golden_w, {1e-6, 1e-6});  // 20 roundings of float32 masters
    Tensor rounded({4}, dtype);
    ops::cast(rounded.view(), s.master.view(), stream);
    BOOST_TEST(same_bits(s.weight, rounded));  // the model weight is the master, rounded
  }
}

BOOST_AUTO_TEST_CASE(fast_equals_reference) {
  for (const DType dtype : fast_dtypes) {
    for (const std::int64_t n : {0, 1, 17, 8192, 30011}) {
      const Tensor grad = random_tensor({n}, f32, 1);
      Tensor w({n}, dtype), w2({n}, dtype), p = random_tensor({n}, f32, 2), p2 = copy_of(p);
      Tensor m = random_tensor({n}, f32, 3, 0.1), m2 = copy_of(m), v = random_tensor({n}, f32, 4);
      for (std::int64_t i = 0; i < n; ++i) v.data<float>()[i] *= v.data<float>()[i];
      Tensor v2 = copy_of(v);
      const ops::AdamWStep step{1e-2, 0.9, 0.95, 1e-8, 0.1, 7, 0.3};
      ops::adamw_update(w.view(), p.view(), m.view(), v.view(), grad.view(), step, stream);
      ops::reference::adamw_update(w2.view(), p2.view(), m2.view(), v2.view(), grad.view(), step, stream);
      check_close("master", p, p2, Kind::elementwise);
      check_close("exp_avg", m, m2, Kind::elementwise);
      check_close("exp_avg_sq", v, v2, Kind::elementwise);
      check_close("weight", w, w2, Kind::elementwise);
    }
  }
}

BOOST_AUTO_TEST_CASE(model_weight_may_be_the_master) {
  State apart({1, 2, 3}, f32), same({1, 2, 3}, f32);
  const Tensor grad = make_tensor<float>({1, -1, 0.5}, {3});
  const ops::AdamWStep step{1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1.0};
  apart.update(grad, step);
  ops::adamw_update(same.master.view(), same.master.view(), same.exp_avg.view(), same.exp_avg_sq.view(),
                    grad.view(), step, stream);
  BOOST_TEST(same_bits(apart.master, same.master));
}

BOOST_AUTO_TEST_CASE(squared_norm) {
  const Tensor three = make_tensor<float>({1, -2, 3}, {3});
  Tensor one({1}, f64), none({0}, f64);
  ops::sum_of_squares(one.view(), three.view(), stream);
  BOOST_TEST(one.data<double>()[0] == 14.0);
  ops::sum_of_squares(none.view(), Tensor({0}, f32).view(), stream);
  for (const DType dtype : {f64, f32, DType::bfloat16}) {
    for (const std::int64_t n : {1, 4095, 4096, 4097, 8 * 4096, 25 * 4096 + 3}) {
      const Tensor x = random_tensor({n}, dtype, 1);
      Tensor a({(n + 4095) / 4096}, f64), b({(n + 4095) / 4096}, f64);
      ops::sum_of_squares(a.view(), x.view(), stream);
      ops::reference::sum_of_squares(b.view(), x.view(), stream);
      BOOST_TEST(same_bits(a, b));  // the same additions in the same order
    }
  }
  BOOST_CHECK_THROW(ops::sum_of_squares(none.view(), three.view(), stream), Error);
}

BOOST_AUTO_TEST_CASE(same_bits_on_any_number_of_threads) {
  const std::int64_t n = 100003;
  const Tensor grad = random_tensor({n}, f32, 1);
  check_thread_invariant("optimizer", [&] {
    std::vector<Tensor> out;
    out.emplace_back(Shape{n}, DType::bfloat16);
    for (int i = 0; i < 3; ++i) out.emplace_back(Shape{n}, f32);
    out.emplace_back(Shape{(n + 4095) / 4096}, f64);
    ops::adamw_update(out[0].view(), out[1].view(), out[2].view(), out[3].view(), grad.view(),
                      {1e-2, 0.9, 0.95, 1e-8, 0.1, 7, 0.3}, stream);
    ops::sum_of_squares(out[4].view(), grad.view(), stream);
    return out;
  });
}

// Norm, rotary embedding, SwiGLU, cross-entropy, embedding, element-wise kernels.
#include <boost/test/unit_test.hpp>
#include <numbers>

#include "../../src/ops/cpu/lanes.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "support/compare.hpp"
#include "support/gradcheck.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {
Stream stream;
constexpr DType f64 = DType::float64;
struct Size {
  std::int64_t rows, width;
};
const std::vector<Size> sizes = {{0, 8}, {3, 1}, {1, 16}, {5, 13}, {37, 131}, {300, 128}};

Tensor angles(std::int64_t positions, std::int64_t half, bool sine, DType dtype) {
  Tensor exact({positions, half}, f64), out({positions, half}, dtype);
  for (std::int64_t i = 0; i < positions * half; ++i) {
    const double angle = double(i / half) * std::pow(100.0, -double(i % half) / double(half));
    exact.data<double>()[i] = sine ? std::sin(angle) : std::cos(angle);
  }
  ops::cast(out.view(), exact.view(), stream);
  return out;
}
}  // namespace

BOOST_AUTO_TEST_CASE(exp_of_lanes) {
  // Against e^x in double, over the whole range of results that are normal numbers.
  double worst = 0;
  for (int i = 0; i < 400000; ++i) {
    const float x = -87.29F + 175.65F * float(i) / 400000.0F;
    const float y = ops::cpu::exp(ops::cpu::splat(x))[i % 16];
    const double exact = std::exp(double{x});
    worst = std::max(worst, std::abs(double{y} - exact) / exact);
  }
  BOOST_TEST_MESSAGE("largest relative error of exp: " << worst);
  BOOST_TEST(worst < 2e-7);
  const auto at = [](float x) { return ops::cpu::exp(ops::cpu::splat(x))[5]; };
  BOOST_TEST(at(0.0F) == 1.0F);
  BOOST_TEST(at(-INFINITY) == 0.0F);
  BOOST_TEST(at(-1e30F) == 0.0F);
  BOOST_TEST(at(INFINITY) == INFINITY);
  BOOST_TEST(at(88.4F) == INFINITY);
  BOOST_TEST(at(1e30F) == INFINITY);
  BOOST_TEST(std::isnan(at(NAN)));
}

BOOST_AUTO_TEST_CASE(rms_norm_by_hand) {
  // mean(x²) = 12.5, eps = 3.5: 1/sqrt(16) = 1/4.
  const Tensor x = make_tensor<float>({3, 4}, {1, 2}), w = make_tensor<float>({2, -1}, {2});
  Tensor y({1, 2}, DType::float32), inverse({1}, DType::float32);
  ops::rms_norm_forward(y.view(), inverse.view(), x.view(), w.view(), 3.5, stream);
  BOOST_TEST(values(y.view()) == (std::vector<double>{1.5, -1}), boost::test_tools::per_element());
  BOOST_TEST(inverse.data<float>()[0] == 0.25F);
}

BOOST_AUTO_TEST_CASE(rms_norm_gradients) {
  Tensor x = random_tensor({4, 7}, f64, 1), w = random_tensor({7}, f64, 2);
  const Tensor c = random_tensor({4, 7}, f64, 3);
  Tensor y({4, 7}, f64), inverse({4}, f64), dx({4, 7}, f64), dw({7}, f64);
  const auto loss = [&] {
    ops::rms_norm_forward(y.view(), inverse.view(), x.view(), w.view(), 1e-5, stream);
    return weighted_sum(c, y);
  };
  loss();
  ops::rms_norm_backward(dx.view(), dw.view(), c.view(), x.view(), w.view(), inverse.view(), false, stream);
  check_gradient("dx", loss, x, dx);
  check_gradient("dw", loss, w, dw);
}

BOOST_AUTO_TEST_CASE(rms_norm_fast_equals_reference) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : sizes) {
      const Shape shape{s.rows, s.width};
      const Tensor x = random_tensor(shape, dtype, 1), w = random_tensor({s.width}, dtype, 2);
      const Tensor dy = random_tensor(shape, dtype, 3);
      Tensor y(shape, dtype), y2(shape, dtype), i({s.rows}, DType::float32), i2({s.rows}, DType::float32);
      ops::rms_norm_forward(y.view(), i.view(), x.view(), w.view(), 1e-5, stream);
      ops::reference::rms_norm_forward(y2.view(), i2.view(), x.view(), w.view(), 1e-5, stream);
      check_close("y", y, y2, Kind::elementwise);
      check_close("inv_rms", i, i2, Kind::elementwise);
      for (const bool accumulate : {false, true}) {
        Tensor dx = random_tensor(shape, dtype, 4), dx2 = copy_of(dx);
        Tensor dw = random_tensor({s.width}, DType::float32, 5), dw2 = copy_of(dw);
        ops::rms_norm_backward(dx.view(), dw.view(), dy.view(), x.view(), w.view(), i.view(), accumulate,
                               stream);
        ops::reference::rms_norm_backward(dx2.view(), dw2.view(), dy.view(), x.view(), w.view(), i.view(),
                                          accumulate, stream);
        check_close("dx", dx, dx2, Kind::sum);
        check_close("dw", dw, dw2, Kind::sum);
        ops::rms_norm_backward(dx2.view(), {}, dy.view(), x.view(), w.view(), i.view(), false, stream);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(add_rms_norm_by_hand) {
  // x + residual = (3, 4), then as in rms_norm_by_hand.
  const Tensor residual = make_tensor<float>({2, 5}, {1, 2}), w = make_tensor<float>({2, -1}, {2});
  Tensor x = make_tensor<float>({1, -1}, {1, 2}), y({1, 2}, DType::float32), inverse({1}, DType::float32);
  ops::add_rms_norm_forward(y.view(), inverse.view(), x.view(), residual.view(), w.view(), 3.5, stream);
  BOOST_TEST(values(x.view()) == (std::vector<double>{3, 4}), boost::test_tools::per_element());
  BOOST_TEST(values(y.view()) == (std::vector<double>{1.5, -1}), boost::test_tools::per_element());
  BOOST_TEST(inverse.data<float>()[0] == 0.25F);
}

BOOST_AUTO_TEST_CASE(add_rms_norm_has_the_bits_of_adding_first) {
  for (const DType dtype : {f64, DType::float32, DType::bfloat16}) {
    for (const Size& s : sizes) {
      const Shape shape{s.rows, s.width};
      const Tensor residual = random_tensor(shape, dtype, 2), w = random_tensor({s.width}, dtype, 3);
      Tensor x = random_tensor(shape, dtype, 1), apart = copy_of(x), y(shape, dtype), y2(shape, dtype);
      Tensor i({s.rows}, accumulator_of(dtype)), i2({s.rows}, accumulator_of(dtype));
      ops::add_rms_norm_forward(y.view(), i.view(), x.view(), residual.view(), w.view(), 1e-5, stream);
      ops::add_inplace(apart.view(), residual.view(), stream);
      ops::rms_norm_forward(y2.view(), i2.view(), apart.view(), w.view(), 1e-5, stream);
      BOOST_TEST(same_bits(x, apart));
      BOOST_TEST(same_bits(y, y2));
      BOOST_TEST(same_bits(i, i2));
      Tensor plain_x = random_tensor(shape, dtype, 1), plain_y(shape, dtype), plain_i(i.shape(), i.dtype());
      ops::reference::add_rms_norm_forward(plain_y.view(), plain_i.view(), plain_x.view(), residual.view(),
                                           w.view(), 1e-5, stream);
      BOOST_TEST(same_bits(x, plain_x));
      check_close("y", y, plain_y, dtype == f64 ? Kind::golden : Kind::elementwise);
    }
  }
}

BOOST_AUTO_TEST_CASE(rope_by_hand_and_back) {
  // Head dim 4, position 1, angles (π/2, π): pairs (0, 2) and (1, 3).
  const double half_turn = std::numbers::pi;
  const Tensor cos = make_tensor<double>({1, 1, std::cos(half_turn / 2), std::cos(half_turn)}, {2, 2});
  const Tensor sin = make_tensor<double>({0, 0, std::sin(half_turn / 2), std::sin(half_turn)}, {2, 2});
  Tensor x = make_tensor<double>({1, 2, 3, 4, 1, 2, 3, 4}, {2, 1, 4});
  const Tensor positions = make_tensor<std::int32_t>({0, 1}, {2}), before = copy_of(x);
  ops::rope_apply(x.view(), positions.view(), cos.view(), sin.view(), false, stream);
  check_close("rotated", values(x.view()), {1, 2, 3, 4, -3, -2, 1, -4}, {1e-15, 1e-15});
  ops::rope_apply(x.view(), positions.view(), cos.view(), sin.view(), true, stream);
  check_close("back", values(x.view()), values(before.view()), {1e-15, 1e-15});
}

BOOST_AUTO_TEST_CASE(rope_gradient_and_fast) {
  const Tensor positions = random_ids({5}, 9, 1), c = random_tensor({5, 2, 6}, f64, 2);
  const Tensor cos = angles(9, 3, false, f64), sin = angles(9, 3, true, f64);
  Tensor x = random_tensor({5, 2, 6}, f64, 3), dx = copy_of(c);
  ops::rope_apply(dx.view(), positions.view(), cos.view(), sin.view(), true, stream);
  check_gradient(
      "dx",
      [&] {
        Tensor y = copy_of(x);
        ops::rope_apply(y.view(), positions.view(), cos.view(), sin.view(), false, stream);
        return weighted_sum(c, y);
      },
      x, dx);
  for (const DType dtype : fast_dtypes) {
    for (const std::int64_t half : {1, 7, 16, 33}) {
      for (const std::int64_t tokens : {0, 1, 131}) {
        const Tensor ids = random_ids({tokens}, 50, 4);
        const Tensor co = angles(50, half, false, DType::float32),
                     si = angles(50, half, true, DType::float32);
        for (const bool inverse : {false, true}) {
          Tensor fast = random_tensor({tokens, 3, 2 * half}, dtype, 5), plain = copy_of(fast);
          ops::rope_apply(fast.view(), ids.view(), co.view(), si.view(), inverse, stream);
          ops::reference::rope_apply(plain.view(), ids.view(), co.view(), si.view(), inverse, stream);
          check_close("rope", fast, plain, Kind::elementwise);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(swiglu) {
  // SiLU(ln 3) = ln 3 · 3/4.
  const Tensor one_gate = make_tensor<double>({std::log(3.0)}, {1, 1}),
               two = make_tensor<double>({2}, {1, 1});
  Tensor one({1, 1}, f64);
  ops::swiglu_forward(one.view(), one_gate.view(), two.view(), stream);
  check_close("silu", values(one.view()), {1.5 * std::log(3.0)}, tolerance(Kind::golden, f64));

  Tensor gate = random_tensor({3, 5}, f64, 1), up = random_tensor({3, 5}, f64, 2), h({3, 5}, f64);
  const Tensor c = random_tensor({3, 5}, f64, 3);
  Tensor dgate({3, 5}, f64), dup({3, 5}, f64);
  ops::swiglu_backward(dgate.view(), dup.view(), c.view(), gate.view(), up.view(), stream);
  const auto loss = [&] {
    ops::swiglu_forward(h.view(), gate.view(), up.view(), stream);
    return weighted_sum(c, h);
  };
  check_gradient("dgate", loss, gate, dgate);
  check_gradient("dup", loss, up, dup);

  for (const DType dtype : fast_dtypes) {
    for (const Size& s : sizes) {
      const Shape shape{s.rows, s.width};
      const Tensor g = random_tensor(shape, dtype, 4, 4.0), u = random_tensor(shape, dtype, 5);
      const Tensor dh = random_tensor(shape, dtype, 6);
      Tensor a(shape, dtype), a2(shape, dtype), b(shape, dtype), b2(shape, dtype);
      ops::swiglu_forward(a.view(), g.view(), u.view(), stream);
      ops::reference::swiglu_forward(a2.view(), g.view(), u.view(), stream);
      check_close("h", a, a2, Kind::elementwise);
      ops::swiglu_backward(a.view(), b.view(), dh.view(), g.view(), u.view(), stream);
      ops::reference::swiglu_backward(a2.view(), b2.view(), dh.view(), g.view(), u.view(), stream);
      check_close("dgate", a, a2, Kind::elementwise);
      check_close("dup", b, b2, Kind::elementwise);
    }
  }
  // Far from zero SiLU is 0 or the identity; NaN stays.
  const Tensor far = make_tensor<float>({-200, 200, NAN}, {3, 1}),
               ones = make_tensor<float>({1, 1, 1}, {3, 1});
  Tensor out({3, 1}, DType::float32);
  ops::swiglu_forward(out.view(), far.view(), ones.view(), stream);
  BOOST_TEST(out.data<float>()[0] == 0.0F);
  BOOST_TEST(out.data<float>()[1] == 200.0F);
  BOOST_TEST(std::isnan(out.data<float>()[2]));
}

BOOST_AUTO_TEST_CASE(cross_entropy_by_hand) {
  // logits (0, ln 3): p = (1/4, 3/4). Row 1 is ignored. Uniform logits cost log V.
  const double log3 = std::log(3.0);
  Tensor logits = make_tensor<double>({0, log3, 5, 6, 2, 2}, {3, 2}), losses({3}, f64);
  const Tensor labels = make_tensor<std::int32_t>({0, -1, 1}, {3});
  const Tensor before = copy_of(logits);
  ops::cross_entropy(losses.view(), logits.view(), labels.view(), 0.0, stream);
  check_close("losses", values(losses.view()), {std::log(4.0), 0, std::log(2.0)},
              tolerance(Kind::golden, f64));
  BOOST_TEST(same_bits(logits, before));
  ops::cross_entropy(losses.view(), logits.view(), labels.view(), 2.0, stream);
  check_close("dlogits", values(logits.view()), {-1.5, 1.5, 0, 0, 1, -1}, tolerance(Kind::golden, f64));
}

BOOST_AUTO_TEST_CASE(cross_entropy_gradient_and_fast) {
  Tensor logits = random_tensor({4, 6}, f64, 1), losses({4}, f64);
  const Tensor labels = make_tensor<std::int32_t>({5, -1, 0, 3}, {4}),
               c = make_tensor<double>({3, 3, 3, 3}, {4});
  Tensor grad = copy_of(logits);
  ops::cross_entropy(losses.view(), grad.view(), labels.view(), 3.0, stream);
  check_gradient(
      "dlogits",
      [&] {
        ops::cross_entropy(losses.view(), logits.view(), labels.view(), 0.0, stream);
        return weighted_sum(c, losses);
      },
      logits, grad);

  for (const DType dtype : fast_dtypes) {
    for (const Size& s : {Size{0, 5}, Size{1, 1}, Size{7, 17}, Size{9, 4099}, Size{70, 512}}) {
      for (const double scale : {0.0, 1.0 / 16}) {
        Tensor fast = random_tensor({s.rows, s.width}, dtype, 2, 3.0), plain = copy_of(fast);
        Tensor ids = random_ids({s.rows}, s.width, 3);
        if (s.rows > 1) ids.data<std::int32_t>()[1] = -100;
        Tensor loss({s.rows}, DType::float32), loss2({s.rows}, DType::float32);
        ops::cross_entropy(loss.view(), fast.view(), ids.view(), scale, stream);
        ops::reference::cross_entropy(loss2.view(), plain.view(), ids.view(), scale, stream);
        check_close("losses", loss, loss2, Kind::sum);
        check_close("dlogits", fast, plain, Kind::sum);
      }
    }
  }
  // One NaN in a row reaches its loss and all of its gradient, and no other row.
  Tensor bad = random_tensor({2, 40}, DType::float32, 4), bad_losses({2}, DType::float32);
  bad.data<float>()[7] = NAN;
  ops::cross_entropy(bad_losses.view(), bad.view(), make_tensor<std::int32_t>({0, 0}, {2}).view(), 1.0,
                     stream);
  BOOST_TEST(std::isnan(bad_losses.data<float>()[0]));
  BOOST_TEST(std::isnan(bad.data<float>()[39]));
  BOOST_TEST(std::isfinite(bad_losses.data<float>()[1]));
}

BOOST_AUTO_TEST_CASE(argmax_by_hand) {
  const Tensor logits = make_tensor<float>({-3, -1, -1, 2, 2, 5, 0, -INFINITY, -0.0F}, {3, 3});
  Tensor columns({3}, DType::int32);
  ops::argmax_rows(columns.view(), logits.view(), stream);
  BOOST_TEST((values(columns.view()) == std::vector<double>{1, 2, 0}));  // the lowest of equal ones
  BOOST_CHECK_THROW(ops::argmax_rows(columns.view(), Tensor({3, 0}, DType::float32).view(), stream), Error);
}

BOOST_AUTO_TEST_CASE(replaced_columns) {
  const Tensor columns = make_tensor<std::int32_t>({2, 0}, {2});
  for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
    Tensor y = random_tensor({3, 3}, dtype, 1), replacing({2}, accumulator_of(dtype));
    ops::cast(replacing.view(), make_tensor<double>({1.001, -2}, {2}).view(), stream);
    std::vector<double> expected = values(y.view());
    const double rounded = dtype == DType::float64   ? 1.001
                           : dtype == DType::float32 ? static_cast<double>(1.001F)
                                                     : static_cast<double>(float(bfloat16(1.001F)));
    for (std::size_t row = 0; row < 9; row += 3) {
      expected[row + 2] = rounded;
      expected[row] = -2;
    }
    ops::replace_columns(y.view(), columns.view(), replacing.view(), stream);
    BOOST_TEST(values(y.view()) == expected, boost::test_tools::per_element());
    const Tensor none({0}, DType::int32), no_value({0}, accumulator_of(dtype));
    ops::replace_columns(y.view(), none.view(), no_value.view(), stream);
    BOOST_TEST(values(y.view()) == expected, boost::test_tools::per_element());
    Tensor no_row({0, 3}, dtype), narrow({3, 2}, dtype);
    ops::replace_columns(no_row.view(), columns.view(), replacing.view(), stream);
    BOOST_CHECK_THROW(ops::replace_columns(narrow.view(), columns.view(), replacing.view(), stream), Error);
    BOOST_CHECK_THROW(ops::replace_columns(y.view(), columns.view(), no_value.view(), stream), Error);
  }
}

BOOST_AUTO_TEST_CASE(embedding) {
  const Tensor table = make_tensor<float>({1, 2, 3, 4, 5, 6}, {3, 2});
  const Tensor ids = make_tensor<std::int32_t>({2, 0, 2}, {3});
  Tensor y({3, 2}, DType::float32), dtable = make_tensor<float>({1, 0, 0, 0, 0, 0}, {3, 2});
  ops::embedding_forward(y.view(), ids.view(), table.view(), stream);
  BOOST_TEST(values(y.view()) == (std::vector<double>{5, 6, 1, 2, 5, 6}), boost::test_tools::per_element());
  ops::embedding_backward(dtable.view(), y.view(), ids.view(), stream);
  BOOST_TEST(values(dtable.view()) == (std::vector<double>{2, 2, 0, 0, 10, 12}),
             boost::test_tools::per_element());
  const Tensor high = make_tensor<std::int32_t>({0, 3, 0}, {3}),
               low = make_tensor<std::int32_t>({0, -1, 0}, {3});
  BOOST_CHECK_THROW(ops::embedding_forward(y.view(), high.view(), table.view(), stream), Error);
  BOOST_CHECK_THROW(ops::embedding_forward(y.view(), low.view(), table.view(), stream), Error);
  for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
    for (const std::int64_t tokens : {0, 1, 503}) {
      const Tensor many = random_ids({tokens}, 7, 1), dy = random_tensor({tokens, 1031}, dtype, 2);
      Tensor sum({7, 1031}, accumulator_of(dtype)), sum2({7, 1031}, accumulator_of(dtype));
      ops::embedding_backward(sum.view(), dy.view(), many.view(), stream);
      ops::reference::embedding_backward(sum2.view(), dy.view(), many.view(), stream);
      BOOST_TEST(same_bits(sum, sum2));  // one addition at a time, tokens ascending, in both
    }
  }
}

BOOST_AUTO_TEST_CASE(add_cast_fill) {
  const std::vector<DType> all = {f64, DType::float32, DType::bfloat16};
  for (const DType to : all) {
    for (const DType from : all) {
      for (const std::int64_t n : {0, 1, 37, 20011}) {
        const Tensor x = random_tensor({n}, from, 1);
        Tensor y = random_tensor({n}, to, 2), y2 = copy_of(y), z({n}, to), z2({n}, to);
        ops::add_inplace(y.view(), x.view(), stream);
        ops::reference::add_inplace(y2.view(), x.view(), stream);
        BOOST_TEST(same_bits(y, y2));
        ops::cast(z.view(), x.view(), stream);
        ops::reference::cast(z2.view(), x.view(), stream);
        BOOST_TEST(same_bits(z, z2));
      }
    }
  }
  // Round to nearest even, once: 1 + 2^-8 is a tie (to 1); a tail far below float32 breaks it upwards.
  const Tensor ties = make_tensor<double>(
      {1 + 0x1p-8, 1 + 0x1p-8 + 0x1p-40, 1 + 3 * 0x1p-8, -1 - 0x1p-8 - 0x1p-40, 1e300, NAN}, {6});
  Tensor rounded({6}, DType::bfloat16);
  ops::cast(rounded.view(), ties.view(), stream);
  check_close("rounded", values(rounded.view()), {1, 1 + 0x1p-7, 1 + 0x1p-6, -1 - 0x1p-7, HUGE_VAL, NAN},
              {0, 0});
  Tensor x({3}, DType::bfloat16);
  ops::fill(x.view(), 0.5, stream);
  BOOST_TEST(values(x.view()) == (std::vector<double>{0.5, 0.5, 0.5}), boost::test_tools::per_element());
  Tensor short_one({2}, f64);
  BOOST_CHECK_THROW(ops::add_inplace(x.view(), short_one.view(), stream), Error);
}

BOOST_AUTO_TEST_CASE(same_bits_on_any_number_of_threads) {
  const std::int64_t rows = 701, width = 200;
  const Shape shape{rows, width};
  for (const DType dtype : fast_dtypes) {
    const Tensor x = random_tensor(shape, dtype, 1), w = random_tensor({width}, dtype, 2);
    const Tensor dy = random_tensor(shape, dtype, 3), labels = random_ids({rows}, width, 4);
    const Tensor wide = random_tensor({rows, 3000}, dtype, 5);
    check_thread_invariant("rows", [&] {
      std::vector<Tensor> out;
      for (int i = 0; i < 3; ++i) out.emplace_back(shape, dtype);
      for (int i = 0; i < 2; ++i) out.emplace_back(Shape{rows}, DType::float32);
      out.emplace_back(Shape{width}, DType::float32);
      out.emplace_back(Shape{width, 3000}, DType::float32);
      out.push_back(copy_of(x));
      ops::rms_norm_forward(out[0].view(), out[3].view(), x.view(), w.view(), 1e-5, stream);
      ops::rms_norm_backward(out[1].view(), out[5].view(), dy.view(), x.view(), w.view(), out[3].view(),
                             false, stream);
      ops::swiglu_forward(out[2].view(), x.view(), dy.view(), stream);
      ops::cross_entropy(out[4].view(), out[7].view(), labels.view(), 1.0, stream);
      ops::embedding_backward(out[6].view(), wide.view(), labels.view(), stream);
      return out;
    });
  }
}

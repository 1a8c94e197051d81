// Matrix products: the equation by hand, gradients, fast = plain, threads.
#include <algorithm>
#include <boost/test/unit_test.hpp>

#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/gpu_libraries.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "support/compare.hpp"
#include "support/gradcheck.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {
Stream stream;
struct Size {
  std::int64_t tokens, in, out;
};
// 0, 1, primes, more than one block of rows or columns, the quickstart's widths.
const std::vector<Size> sizes = {{0, 5, 3},   {4, 0, 3},     {4, 5, 0},      {1, 1, 1},      {7, 13, 5},
                                 {61, 17, 3}, {300, 64, 37}, {37, 128, 531}, {512, 128, 344}};

/// "" if they could be opened.
std::string why_no_gpu_libraries() {
  try {
    ops::require_gpu_libraries();
  } catch (const Error& e) {
    BOOST_TEST((e.code() == ErrorCode::config));
    return e.what();
  }
  return "";
}
}  // namespace

BOOST_AUTO_TEST_CASE(forward_by_hand) {
  // y = x·Wᵀ + b: (1·1 + 2·3 + 10, 1·(−1) + 2·4 + 20).
  const Tensor x = make_tensor<float>({1, 2}, {1, 2}), w = make_tensor<float>({1, 3, -1, 4}, {2, 2});
  const Tensor bias = make_tensor<float>({10, 20}, {2});
  Tensor y({1, 2}, DType::float32);
  ops::linear_forward(y.view(), x.view(), w.view(), bias.view(), stream);
  BOOST_TEST(values(y.view()) == (std::vector<double>{17, 27}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(gradients) {
  Tensor x = random_tensor({5, 4}, DType::float64, 1), w = random_tensor({3, 4}, DType::float64, 2);
  Tensor bias = random_tensor({3}, DType::float64, 3), y({5, 3}, DType::float64);
  const Tensor c = random_tensor({5, 3}, DType::float64, 4);
  const auto loss = [&] {
    ops::linear_forward(y.view(), x.view(), w.view(), bias.view(), stream);
    return weighted_sum(c, y);
  };
  Tensor dx(x.shape(), DType::float64), dw(w.shape(), DType::float64), db({3}, DType::float64);
  ops::linear_backward_input(dx.view(), c.view(), w.view(), false, stream);
  ops::linear_backward_weight(dw.view(), c.view(), x.view(), stream);
  ops::linear_backward_bias(db.view(), c.view(), stream);
  check_gradient("dx", loss, x, dx);
  check_gradient("dw", loss, w, dw);
  check_gradient("db", loss, bias, db);
}

// A token's result has the same bits however many tokens are multiplied with it, and wherever it stands among
// them; on CPUs where oneDNN does not keep to one order of additions, the same numbers but for rounding. Sums
// of more than 768 terms are cut; widths are those of real models, where oneDNN changes between its kernels.
BOOST_AUTO_TEST_CASE(rows_do_not_depend_on_their_company) {
  for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{24, 40},
                                {128, 344},
                                {344, 128},
                                {130, 515},
                                {385, 1},
                                {576, 6},
                                {769, 17},
                                {896, 128},
                                {1537, 33},
                                {2048, 192},
                                {4864, 64}}) {
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      const std::int64_t tokens = 600;
      const Tensor x = random_tensor({tokens, in}, dtype, 1), w = random_tensor({out, in}, dtype, 2);
      Tensor whole({tokens, out}, DType::float32), part({tokens, out}, DType::float32);
      ops::linear_forward(whole.view(), x.view(), w.view(), {}, stream);
      for (const std::int64_t first : {0, 1, 37}) {
        for (const std::int64_t count : {1, 2, 3, 7, 15, 16, 17, 31, 64, 100, 199, 257, 515, 516}) {
          ops::linear_forward(part.view().rows(0, count), x.view().rows(first, count), w.view(), {}, stream);
          const auto found = values(part.view().rows(0, count)),
                     expected = values(whole.view().rows(first, count));
          if (dtype == DType::float32 && ops::cpu::rows_are_independent()) {
            BOOST_TEST((found == expected), "float32 rows of " << in << " x " << out << ", " << count);
          } else {
            // The table is for 1000 terms; the error grows like eps · sqrt(terms) · |partial sum|.
            const double longer = std::max(1.0, static_cast<double>(in) / 1000);
            const Tolerance t = tolerance(Kind::sum, DType::float32);
            check_close("rows", found, expected, Tolerance{t.absolute * longer, t.relative * longer});
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(fast_equals_reference) {
  for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
    const DType acc = accumulator_of(dtype);
    for (const Size& s : sizes) {
      const Tensor x = random_tensor({s.tokens, s.in}, dtype, 1), w = random_tensor({s.out, s.in}, dtype, 2);
      const Tensor bias = random_tensor({s.out}, dtype, 3);
      for (const DType out : {dtype, acc}) {
        Tensor y({s.tokens, s.out}, out), expected({s.tokens, s.out}, out);
        for (const ConstTensorView b : {ConstTensorView{}, bias.view()}) {
          ops::linear_forward(y.view(), x.view(), w.view(), b, stream);
          ops::reference::linear_forward(expected.view(), x.view(), w.view(), b, stream);
          check_close("y", y, expected, Kind::sum);
        }
        const Tensor dy = random_tensor({s.tokens, s.out}, out, 4);
        for (const bool accumulate : {false, true}) {
          Tensor dx = random_tensor({s.tokens, s.in}, dtype, 5), dx_expected = copy_of(dx);
          ops::linear_backward_input(dx.view(), dy.view(), w.view(), accumulate, stream);
          ops::reference::linear_backward_input(dx_expected.view(), dy.view(), w.view(), accumulate, stream);
          check_close("dx", dx, dx_expected, Kind::sum);
        }
        Tensor dw = random_tensor({s.out, s.in}, acc, 6), dw_expected = copy_of(dw);
        ops::linear_backward_weight(dw.view(), dy.view(), x.view(), stream);
        ops::reference::linear_backward_weight(dw_expected.view(), dy.view(), x.view(), stream);
        check_close("dw", dw, dw_expected, Kind::sum);
        Tensor db = random_tensor({s.out}, accumulator_of(out), 7), db_expected = copy_of(db);
        ops::linear_backward_bias(db.view(), dy.view(), stream);
        ops::reference::linear_backward_bias(db_expected.view(), dy.view(), stream);
        check_close("db", db, db_expected, Kind::sum);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(same_bits_on_any_number_of_threads) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : {Size{523, 128, 344}, Size{64, 96, 1031}, Size{600, 3000, 5}}) {
      const Tensor x = random_tensor({s.tokens, s.in}, dtype, 1), w = random_tensor({s.out, s.in}, dtype, 2);
      const Tensor dy = random_tensor({s.tokens, s.out}, dtype, 3);
      check_thread_invariant("linear", [&] {
        std::vector<Tensor> out;
        out.emplace_back(Shape{s.tokens, s.out}, dtype);
        out.emplace_back(Shape{s.tokens, s.in}, dtype);
        out.emplace_back(Shape{s.out, s.in}, DType::float32);
        out.emplace_back(Shape{s.out}, DType::float32);
        ops::linear_forward(out[0].view(), x.view(), w.view(), {}, stream);
        ops::linear_backward_input(out[1].view(), dy.view(), w.view(), false, stream);
        ops::linear_backward_weight(out[2].view(), dy.view(), x.view(), stream);
        ops::linear_backward_bias(out[3].view(), dy.view(), stream);
        return out;
      });
    }
  }
}

BOOST_AUTO_TEST_CASE(nan_propagates) {
  Tensor x = random_tensor({20, 16}, DType::float32, 1);
  const Tensor w = random_tensor({9, 16}, DType::float32, 2);
  x.data<float>()[3 * 16 + 4] = NAN;
  Tensor y({20, 9}, DType::float32);
  ops::linear_forward(y.view(), x.view(), w.view(), {}, stream);
  for (std::int64_t i = 0; i < 20 * 9; ++i) BOOST_TEST(std::isnan(y.data<float>()[i]) == (i / 9 == 3));
}

BOOST_AUTO_TEST_CASE(wrong_arguments_are_named) {
  const auto code_is = [](ErrorCode code) { return [code](const Error& e) { return e.code() == code; }; };
  const Tensor x({2, 3}, DType::float32), w({4, 3}, DType::float32), narrow({4, 2}, DType::float32);
  const Tensor other({4, 3}, DType::bfloat16);
  Tensor y({2, 4}, DType::float32);
  BOOST_CHECK_EXCEPTION(ops::linear_forward(y.view(), x.view(), narrow.view(), {}, stream), Error,
                        code_is(ErrorCode::internal));
  BOOST_CHECK_EXCEPTION(ops::linear_forward(y.view(), x.view(), other.view(), {}, stream), Error,
                        code_is(ErrorCode::internal));
  BOOST_CHECK_EXCEPTION(ops::linear_forward({}, x.view(), w.view(), {}, stream), Error,
                        code_is(ErrorCode::internal));
  const auto on_gpu = [](ConstTensorView v) {
    return TensorView(const_cast<void*>(v.raw()), v.dtype(), v.shape(), Device::cuda);
  };
  BOOST_CHECK_EXCEPTION(ops::linear_forward(on_gpu(y.view()), x.view(), w.view(), {}, stream), Error,
                        code_is(ErrorCode::internal));
  BOOST_CHECK_EXCEPTION(ops::linear_forward(on_gpu(y.view()), on_gpu(x.view()), on_gpu(w.view()), {}, stream),
                        Error, code_is(ErrorCode::internal));  // tensors there, stream here
}

// Where nothing defines the kernels of ops::cuda, whoever asks for one is told the remedy.
BOOST_AUTO_TEST_CASE(without_cuda_a_gpu_kernel_is_an_error) {
  if (!why_no_gpu_libraries().starts_with("this program was built without CUDA;")) return;
  float element = 1.0F;
  Stream gpu(Device::cuda);
  BOOST_CHECK_EXCEPTION(ops::fill(TensorView(&element, DType::float32, {1}, Device::cuda), 2.0, gpu), Error,
                        [](const Error& e) {
                          return e.code() == ErrorCode::config &&
                                 std::string(e.what()) == "fill: built without CUDA; use --device cpu";
                        });
  BOOST_TEST(element == 1.0F);
}

// A toolkit that was built with has every function we name; no GPU is needed to look.
BOOST_AUTO_TEST_CASE(gpu_libraries_open_or_say_why) {
  const std::string reason = why_no_gpu_libraries();
  BOOST_TEST(
      (reason.empty() || reason.starts_with("this program was built without CUDA;") ||
       reason.find("cannot open shared object file: No such file or directory; products on a GPU need") !=
           std::string::npos),
      reason);
}

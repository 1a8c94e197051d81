// Matrix products on the GPU against the plain loops in float64, all combinations of types the model uses.
#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "support/on_gpu.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {
struct Size {
  std::int64_t rows, in, out;
};
const std::vector<Size> sizes = {{0, 3, 5},    {1, 1, 1},     {7, 13, 5},
                                 {64, 32, 48}, {131, 64, 17}, {33, 160, 136}};
}  // namespace

BOOST_AUTO_TEST_CASE(forward) {
  for (const DType dtype : fast_dtypes) {
    for (const DType stored : {dtype, DType::float32}) {
      for (const Size& s : sizes) {
        for (const bool with_bias : {false, true}) {
          const Both x = both({s.rows, s.in}, dtype, 1), w = both({s.out, s.in}, dtype, 2),
                     b = both({s.out}, dtype, 3);
          Both y = poisoned({s.rows, s.out}, stored);
          ops::linear_forward(y.gpu.view(), x.gpu.view(), w.gpu.view(),
                              with_bias ? b.gpu.view() : TensorView(), gpu_stream());
          ops::reference::linear_forward(y.exact.view(), x.exact.view(), w.exact.view(),
                                         with_bias ? b.exact.view() : TensorView(), cpu_stream());
          check_gpu("y", y, gpu_tolerance(stored, static_cast<double>(s.in)));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(backward_input) {
  for (const DType dtype : fast_dtypes) {
    for (const DType of_dy : {dtype, DType::float32}) {
      for (const DType stored : {dtype, DType::float32}) {
        for (const Size& s : sizes) {
          for (const bool accumulate : {false, true}) {
            const Both dy = both({s.rows, s.out}, of_dy, 1), w = both({s.out, s.in}, dtype, 2);
            Both dx = accumulate ? both({s.rows, s.in}, stored, 3) : poisoned({s.rows, s.in}, stored);
            ops::linear_backward_input(dx.gpu.view(), dy.gpu.view(), w.gpu.view(), accumulate, gpu_stream());
            ops::reference::linear_backward_input(dx.exact.view(), dy.exact.view(), w.exact.view(),
                                                  accumulate, cpu_stream());
            check_gpu("dx", dx, gpu_tolerance(stored, static_cast<double>(s.out)));
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(backward_weight_and_bias) {
  for (const DType dtype : fast_dtypes) {
    for (const DType of_dy : {dtype, DType::float32}) {
      for (const Size& s : sizes) {
        const Both dy = both({s.rows, s.out}, of_dy, 1), x = both({s.rows, s.in}, dtype, 2);
        Both dw = both({s.out, s.in}, DType::float32, 3), db = both({s.out}, DType::float32, 4);
        ops::linear_backward_weight(dw.gpu.view(), dy.gpu.view(), x.gpu.view(), gpu_stream());
        ops::reference::linear_backward_weight(dw.exact.view(), dy.exact.view(), x.exact.view(),
                                               cpu_stream());
        check_gpu("dw", dw, gpu_tolerance(DType::float32, static_cast<double>(s.rows)));
        ops::linear_backward_bias(db.gpu.view(), dy.gpu.view(), gpu_stream());
        ops::reference::linear_backward_bias(db.exact.view(), dy.exact.view(), cpu_stream());
        check_gpu("db", db, gpu_tolerance(DType::float32, static_cast<double>(s.rows)));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(same_bits_every_time_and_in_every_place) {
  // The rows of an expert give the same bits wherever their segment lies in the buffer.
  const Both x = both({300, 64}, DType::bfloat16, 1), w = both({96, 64}, DType::bfloat16, 2);
  Tensor first;
  for (const std::int64_t at : {0, 1, 57, 200}) {
    Tensor moved({300, 64}, DType::bfloat16, Device::cuda), y({100, 96}, DType::bfloat16, Device::cuda);
    copy(moved.view().rows(at, 100), x.gpu.view().rows(0, 100), gpu_stream());
    ops::linear_forward(y.view(), moved.view().rows(at, 100), w.gpu.view(), {}, gpu_stream());
    Tensor here = from_gpu(y);
    if (first.valid()) BOOST_TEST(same_bits(first, here));
    first = std::move(here);
  }
}

BOOST_AUTO_TEST_CASE(float64_and_mixed_devices_are_refused) {
  Tensor x({2, 2}, DType::float64, Device::cuda), y({2, 2}, DType::float64, Device::cuda),
      host({2, 2}, DType::float64);
  BOOST_CHECK_EXCEPTION(ops::linear_forward(y.view(), x.view(), x.view(), {}, gpu_stream()), Error,
                        [](const Error& e) { return e.code() == ErrorCode::config; });
  BOOST_CHECK_THROW(ops::linear_forward(y.view(), x.view(), host.view(), {}, gpu_stream()), Error);
}

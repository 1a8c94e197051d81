// Norm, rotary embedding, SwiGLU, cross-entropy, embedding and element-wise kernels on the GPU against the
// plain loops in float64: no rows, one element, odd and prime widths, widths that fill packs, more than one
// block.
#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "support/on_gpu.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {
struct Size {
  std::int64_t rows, width;
};
const std::vector<Size> sizes = {{0, 8}, {3, 1}, {1, 16}, {5, 13}, {37, 131}, {150, 64}, {3, 2056}};

Both angles(std::int64_t positions, std::int64_t half, bool sine) {
  Tensor host({positions, half}, DType::float32);
  for (std::int64_t i = 0; i < positions * half; ++i) {
    const double angle = double(i / half) * std::pow(100.0, -double(i % half) / double(half));
    host.data<float>()[i] = static_cast<float>(sine ? std::sin(angle) : std::cos(angle));
  }
  return both(host);
}
}  // namespace

BOOST_AUTO_TEST_CASE(rms_norm) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : sizes) {
      const Shape shape{s.rows, s.width};
      const auto width = static_cast<double>(s.width);
      const Both x = both(shape, dtype, 1), w = both({s.width}, dtype, 2), dy = both(shape, dtype, 3);
      Both y = poisoned(shape, dtype), inverse = poisoned({s.rows}, DType::float32);
      ops::rms_norm_forward(y.gpu.view(), inverse.gpu.view(), x.gpu.view(), w.gpu.view(), 1e-5, gpu_stream());
      ops::reference::rms_norm_forward(y.exact.view(), inverse.exact.view(), x.exact.view(), w.exact.view(),
                                       1e-5, cpu_stream());
      check_gpu("y", y, gpu_tolerance(dtype));
      check_gpu("inv_rms", inverse, gpu_tolerance(DType::float32));
      // With the residual added on the way: the bits of the two kernels one after the other.
      const Tensor residual = from_gpu(both(shape, dtype, 6).gpu), on_device = on_gpu(residual);
      Tensor sum = on_gpu(from_gpu(x.gpu)), apart = on_gpu(from_gpu(x.gpu));
      Both fused = poisoned(shape, dtype), scale = poisoned({s.rows}, DType::float32);
      ops::add_rms_norm_forward(fused.gpu.view(), scale.gpu.view(), sum.view(), on_device.view(),
                                w.gpu.view(), 1e-5, gpu_stream());
      ops::add_inplace(apart.view(), on_device.view(), gpu_stream());
      Both plain = poisoned(shape, dtype), plain_scale = poisoned({s.rows}, DType::float32);
      ops::rms_norm_forward(plain.gpu.view(), plain_scale.gpu.view(), apart.view(), w.gpu.view(), 1e-5,
                            gpu_stream());
      BOOST_TEST(same_bits(from_gpu(sum), from_gpu(apart)));
      BOOST_TEST(same_bits(from_gpu(fused.gpu), from_gpu(plain.gpu)));
      BOOST_TEST(same_bits(from_gpu(scale.gpu), from_gpu(plain_scale.gpu)));
      Tensor exact_sum = from_gpu(x.gpu);  // rounded to the type where the kernel rounds it
      ops::reference::add_inplace(exact_sum.view(), residual.view(), cpu_stream());
      BOOST_TEST(same_bits(from_gpu(sum), exact_sum));
      for (const bool accumulate : {false, true}) {
        Both dx = accumulate ? both(shape, dtype, 4) : poisoned(shape, dtype),
             dw = both({s.width}, DType::float32, 5);
        ops::rms_norm_backward(dx.gpu.view(), dw.gpu.view(), dy.gpu.view(), x.gpu.view(), w.gpu.view(),
                               inverse.gpu.view(), accumulate, gpu_stream());
        ops::reference::rms_norm_backward(dx.exact.view(), dw.exact.view(), dy.exact.view(), x.exact.view(),
                                          w.exact.view(), inverse.exact.view(), accumulate, cpu_stream());
        // One over the norm of a single element near 0 is large: errors grow with it.
        check_gpu("dx", dx, s.width == 1 ? Tolerance{1e-3, 0.01} : gpu_tolerance(dtype, width));
        check_gpu("dw", dw, gpu_tolerance(DType::float32, 16.0 * static_cast<double>(s.rows)));
      }
      Both dx = both(dy.gpu.shape(), dtype, 3), out = poisoned(shape, dtype);  // in place, without dw
      ops::rms_norm_backward(dx.gpu.view(), {}, dx.gpu.view(), x.gpu.view(), w.gpu.view(), inverse.gpu.view(),
                             false, gpu_stream());
      ops::rms_norm_backward(out.gpu.view(), {}, dy.gpu.view(), x.gpu.view(), w.gpu.view(),
                             inverse.gpu.view(), false, gpu_stream());
      BOOST_TEST(same_bits(from_gpu(dx.gpu), from_gpu(out.gpu)));
    }
  }
}

BOOST_AUTO_TEST_CASE(rope) {
  for (const DType dtype : fast_dtypes) {
    for (const std::int64_t half : {1, 7, 16, 64}) {
      const Both cos = angles(50, half, false), sin = angles(50, half, true);
      for (const std::int64_t tokens : {0, 1, 31}) {
        const Tensor positions = random_ids({tokens}, 50, 4), gpu_positions = on_gpu(positions);
        for (const bool inverse : {false, true}) {
          Both x = both({tokens, 3, 2 * half}, dtype, 5);
          ops::rope_apply(x.gpu.view(), gpu_positions.view(), cos.gpu.view(), sin.gpu.view(), inverse,
                          gpu_stream());
          ops::reference::rope_apply(x.exact.view(), positions.view(), cos.exact.view(), sin.exact.view(),
                                     inverse, cpu_stream());
          check_gpu("rope", x, gpu_tolerance(dtype));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(swiglu) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : sizes) {
      const Shape shape{s.rows, s.width};
      const Both gate = both(shape, dtype, 1, 3.0), up = both(shape, dtype, 2), dh = both(shape, dtype, 3);
      Both h = poisoned(shape, dtype), dgate = poisoned(shape, dtype), dup = poisoned(shape, dtype);
      ops::swiglu_forward(h.gpu.view(), gate.gpu.view(), up.gpu.view(), gpu_stream());
      ops::reference::swiglu_forward(h.exact.view(), gate.exact.view(), up.exact.view(), cpu_stream());
      check_gpu("h", h, gpu_tolerance(dtype, 8));
      ops::swiglu_backward(dgate.gpu.view(), dup.gpu.view(), dh.gpu.view(), gate.gpu.view(), up.gpu.view(),
                           gpu_stream());
      ops::reference::swiglu_backward(dgate.exact.view(), dup.exact.view(), dh.exact.view(),
                                      gate.exact.view(), up.exact.view(), cpu_stream());
      check_gpu("dgate", dgate, gpu_tolerance(dtype, 8));
      check_gpu("dup", dup, gpu_tolerance(dtype, 8));
    }
  }
}

BOOST_AUTO_TEST_CASE(cross_entropy) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : {Size{1, 1}, Size{3, 13}, Size{7, 1000}, Size{2, 8192}, Size{2, 5003}}) {
      Tensor labels = random_ids({s.rows}, s.width, 2);
      labels.data<std::int32_t>()[s.rows / 2] = -100;
      const Tensor gpu_labels = on_gpu(labels);
      for (const double scale : {0.0, 0.37}) {
        Both logits = both({s.rows, s.width}, dtype, 1, 4.0), losses = poisoned({s.rows}, DType::float32);
        ops::cross_entropy(losses.gpu.view(), logits.gpu.view(), gpu_labels.view(), scale, gpu_stream());
        ops::reference::cross_entropy(losses.exact.view(), logits.exact.view(), labels.view(), scale,
                                      cpu_stream());
        check_gpu("losses", losses, gpu_tolerance(DType::float32, 64));
        check_gpu("dlogits", logits, gpu_tolerance(dtype));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(cross_entropy_of_extreme_logits) {
  // Logits of ±3e38, all equal, and −inf beside finite ones; a NaN stays in its row.
  const float big = 3e38F, inf = HUGE_VALF;
  const Tensor host =
      make_tensor<float>({big, -big, 0, 0, 5, 5, 5, 5, -inf, 1, -inf, 2, NAN, 1, 2, 3}, {4, 4});
  const Tensor labels = make_tensor<std::int32_t>({0, 2, 3, 1}, {4}), gpu_labels = on_gpu(labels);
  Both logits = both(host), losses = poisoned({4}, DType::float32);
  ops::cross_entropy(losses.gpu.view(), logits.gpu.view(), gpu_labels.view(), 1.0, gpu_stream());
  ops::reference::cross_entropy(losses.exact.view(), logits.exact.view(), labels.view(), 1.0, cpu_stream());
  check_gpu("losses", losses, gpu_tolerance(DType::float32));
  check_gpu("dlogits", logits, gpu_tolerance(DType::float32));
}

BOOST_AUTO_TEST_CASE(embedding) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : sizes) {
      constexpr std::int64_t vocab = 11;
      const Tensor ids = random_ids({s.rows}, vocab, 1), gpu_ids = on_gpu(ids);
      const Both table = both({vocab, s.width}, dtype, 2), dy = both({s.rows, s.width}, dtype, 3);
      Both y = poisoned({s.rows, s.width}, dtype), dtable = both({vocab, s.width}, DType::float32, 4);
      ops::embedding_forward(y.gpu.view(), gpu_ids.view(), table.gpu.view(), gpu_stream());
      ops::reference::embedding_forward(y.exact.view(), ids.view(), table.exact.view(), cpu_stream());
      check_gpu("y", y, {0, 0});
      Tensor on_cpu = from_gpu(dtable.gpu), host_dy = from_gpu(dy.gpu);
      ops::embedding_backward(dtable.gpu.view(), dy.gpu.view(), gpu_ids.view(), gpu_stream());
      ops::reference::embedding_backward(dtable.exact.view(), dy.exact.view(), ids.view(), cpu_stream());
      check_gpu("dtable", dtable, gpu_tolerance(DType::float32, 40));
      ops::reference::embedding_backward(on_cpu.view(), host_dy.view(), ids.view(), cpu_stream());
      BOOST_TEST(same_bits(from_gpu(dtable.gpu), on_cpu));  // tokens in the same order
    }
  }
}

BOOST_AUTO_TEST_CASE(add_cast_fill) {
  for (const DType dtype : fast_dtypes) {
    for (const DType other : fast_dtypes) {
      for (const std::int64_t n : {0, 1, 7, 64, 2053}) {
        Both y = both({n}, dtype, 1), to = poisoned({n}, dtype);
        const Both x = both({n}, other, 2);
        ops::cast(to.gpu.view(), x.gpu.view(), gpu_stream());
        Tensor host({n}, dtype);
        ops::reference::cast(host.view(), from_gpu(x.gpu).view(), cpu_stream());
        BOOST_TEST(same_bits(from_gpu(to.gpu), host));
        ops::add_inplace(y.gpu.view(), x.gpu.view(), gpu_stream());
        ops::reference::add_inplace(y.exact.view(), x.exact.view(), cpu_stream());
        check_gpu("sum", y, gpu_tolerance(dtype));
        ops::fill(to.gpu.view(), 0.3, gpu_stream());
        ops::reference::fill(host.view(), 0.3, cpu_stream());
        BOOST_TEST(same_bits(from_gpu(to.gpu), host));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(views_that_start_at_an_odd_element) {
  // An optimizer slice may start anywhere: the one-element kernels take over.
  Both x = both({1000}, DType::float32, 1), y = both({1000}, DType::bfloat16, 2);
  ops::add_inplace(y.gpu.view().rows(3, 990), x.gpu.view().rows(5, 990), gpu_stream());
  ops::reference::add_inplace(y.exact.view().rows(3, 990), x.exact.view().rows(5, 990), cpu_stream());
  check_gpu("sum", y, gpu_tolerance(DType::bfloat16));
}

BOOST_AUTO_TEST_CASE(argmax) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : {Size{0, 8}, Size{3, 1}, Size{5, 13}, Size{37, 131}, Size{3, 2056}}) {
      Tensor host = random_tensor({s.rows, s.width}, dtype, 7);
      if (s.width > 8) {  // the largest twice, in two threads and in one
        for (const std::int64_t column : {s.width - 1, s.width / 2, s.width > 1500 ? s.width / 2 - 512 : 3}) {
          const std::int64_t at = s.width + column;
          dtype == DType::float32 ? void(host.data<float>()[at] = 9.0F)
                                  : void(host.data<bfloat16>()[at] = bfloat16(9.0F));
        }
      }
      const Both logits = both(host);
      Tensor expected({s.rows}, DType::int32), found = on_gpu(random_ids({s.rows}, 5, 1));
      ops::reference::argmax_rows(expected.view(), logits.exact.view(), cpu_stream());
      ops::argmax_rows(found.view(), logits.gpu.view(), gpu_stream());
      BOOST_TEST(same_bits(from_gpu(found), expected));
    }
  }
}

BOOST_AUTO_TEST_CASE(replaced_columns) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : {Size{0, 8}, Size{1, 8}, Size{5, 13}, Size{37, 131}}) {
      Tensor expected = random_tensor({s.rows, s.width}, dtype, 3), found = on_gpu(expected);
      const Tensor values = random_tensor({3}, DType::float32, 4);
      Tensor columns({3}, DType::int32);
      for (std::int32_t u = 0; u < 3; ++u)
        columns.data<std::int32_t>()[u] = static_cast<std::int32_t>(s.width) - 1 - 3 * u;
      ops::reference::replace_columns(expected.view(), columns.view(), values.view(), cpu_stream());
      ops::replace_columns(found.view(), on_gpu(columns).view(), on_gpu(values).view(), gpu_stream());
      BOOST_TEST(same_bits(from_gpu(found), expected));
    }
  }
}

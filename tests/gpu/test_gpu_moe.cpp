// Router, auxiliary losses, gather and combine, optimizer kernels on the GPU against the plain loops.
#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "support/on_gpu.hpp"

using namespace nmoe;
using namespace nmoe::test;
using ops::LprForm;

namespace {
struct Routed {
  Both logits, probs, weights;
  Tensor indices, gpu_indices;
  Routed(std::int64_t tokens, std::int64_t experts, std::int64_t top_k, bool normalise) {
    logits = both({tokens, experts}, DType::float32, 1);
    probs = poisoned({tokens, experts}, DType::float32);
    weights = poisoned({tokens, top_k}, DType::float32);
    indices = Tensor({tokens, top_k}, DType::int32);
    gpu_indices = on_gpu(indices);
    ops::route_forward(probs.gpu.view(), weights.gpu.view(), gpu_indices.view(), logits.gpu.view(), normalise,
                       gpu_stream());
    ops::reference::route_forward(probs.exact.view(), weights.exact.view(), indices.view(),
                                  logits.exact.view(), normalise, cpu_stream());
  }
};
struct Size {
  std::int64_t tokens, experts, top_k;
};
const std::vector<Size> sizes = {{0, 3, 2}, {1, 1, 1}, {7, 2, 2}, {131, 5, 2}, {300, 4, 3}, {129, 17, 17}};
}  // namespace

BOOST_AUTO_TEST_CASE(routing) {
  for (const Size& s : sizes) {
    for (const bool normalise : {false, true}) {
      const Routed r(s.tokens, s.experts, s.top_k, normalise);
      check_gpu("probs", r.probs, gpu_tolerance(DType::float32));
      check_gpu("weights", r.weights, gpu_tolerance(DType::float32));
      BOOST_TEST(same_bits(from_gpu(r.gpu_indices), r.indices));
      const Both dweights = both({s.tokens, s.top_k}, DType::float32, 2),
                 dprobs = both({s.tokens, s.experts}, DType::float32, 3);
      for (const bool with_dprobs : {false, true}) {
        Both dlogits = poisoned({s.tokens, s.experts}, DType::float32);
        ops::route_backward(dlogits.gpu.view(), dweights.gpu.view(),
                            with_dprobs ? dprobs.gpu.view() : TensorView(), r.probs.gpu.view(),
                            r.weights.gpu.view(), r.gpu_indices.view(), normalise, gpu_stream());
        ops::reference::route_backward(dlogits.exact.view(), dweights.exact.view(),
                                       with_dprobs ? dprobs.exact.view() : TensorView(), r.probs.exact.view(),
                                       r.weights.exact.view(), r.indices.view(), normalise, cpu_stream());
        check_gpu("dlogits", dlogits, gpu_tolerance(DType::float32, 16));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(ties_go_to_the_lower_id) {
  const Tensor host = make_tensor<float>({0, 0, 0, 0, 0, 1, 7, 3, 7, 7, 2, 2, 1, 2, 3}, {3, 5});
  const Tensor logits = on_gpu(host);
  Tensor probs({3, 5}, DType::float32, Device::cuda), weights({3, 3}, DType::float32, Device::cuda);
  Tensor indices({3, 3}, DType::int32, Device::cuda);
  ops::route_forward(probs.view(), weights.view(), indices.view(), logits.view(), true, gpu_stream());
  BOOST_TEST(values(from_gpu(indices).view()) == (std::vector<double>{0, 1, 2, 1, 3, 4, 4, 0, 1}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(auxiliary_losses) {
  for (const Size& s : sizes) {
    const Routed r(s.tokens, s.experts, s.top_k, true);
    Tensor mask({s.tokens}, DType::uint8);
    for (std::int64_t t = 0; t < s.tokens; ++t) mask.data<std::uint8_t>()[t] = t % 3 == 1 ? 1 : 0;
    const Tensor gpu_mask = on_gpu(mask);
    Both dprobs = both({s.tokens, s.experts}, DType::float32, 4);
    const double scale = static_cast<double>(s.tokens);  // so that gradients are of size 1
    Tensor slot({1}, DType::float64, Device::cuda);
    ops::load_balancing_loss(slot.view(), dprobs.gpu.view(), r.probs.gpu.view(), r.gpu_indices.view(), scale,
                             gpu_stream());
    const double balancing = values(from_gpu(slot).view())[0];
    Tensor exact({1}, DType::float64);
    ops::reference::load_balancing_loss(exact.view(), dprobs.exact.view(), r.probs.exact.view(),
                                        r.indices.view(), scale, cpu_stream());
    BOOST_TEST(balancing == values(exact.view())[0],
               boost::test_tools::tolerance(1e-6));  // of float32 probabilities
    check_gpu("dprobs", dprobs, gpu_tolerance(DType::float32, 8));
    for (const LprForm form : {LprForm::double_softmax, LprForm::nll}) {
      Both grad = both({s.tokens, s.experts}, DType::float32, 5);
      const auto gpu_loss = [&](TensorView to) {
        ops::lpr_loss_sum(slot.view(), to, r.probs.gpu.view(), gpu_mask.view(), form, 1.0, gpu_stream());
        return values(from_gpu(slot).view())[0];
      };
      const double loss = gpu_loss(grad.gpu.view());
      ops::reference::lpr_loss_sum(exact.view(), grad.exact.view(), r.probs.exact.view(), mask.view(), form,
                                   1.0, cpu_stream());
      BOOST_TEST(loss == values(exact.view())[0], boost::test_tools::tolerance(1e-6));
      check_gpu("dprobs", grad, gpu_tolerance(DType::float32, 8));
      BOOST_TEST(gpu_loss({}) == loss);
    }
  }
}

BOOST_AUTO_TEST_CASE(gather_and_combine) {
  for (const DType dtype : fast_dtypes) {
    for (const std::int64_t width : {1, 13, 64, 1032}) {
      const std::int64_t tokens = 9, top_k = 2, experts = 4;
      const Routed r(tokens, experts, top_k, true);
      // Rows by expert, as the dispatcher lays them out; expert 2 has no row, its slots say -1.
      std::vector<std::int32_t> token_of_row, row_of_slot(static_cast<std::size_t>(tokens * top_k), -1);
      for (std::int32_t e = 0; e < experts; ++e) {
        for (std::int64_t slot = 0; e != 2 && slot < tokens * top_k; ++slot) {
          if (r.indices.data<std::int32_t>()[slot] != e) continue;
          row_of_slot[static_cast<std::size_t>(slot)] = static_cast<std::int32_t>(token_of_row.size());
          token_of_row.push_back(static_cast<std::int32_t>(slot / top_k));
        }
      }
      const auto num_rows = static_cast<std::int64_t>(token_of_row.size());
      const Tensor of_row = make_tensor(token_of_row, {num_rows}),
                   of_slot = make_tensor(row_of_slot, {tokens, top_k});
      const Tensor gpu_of_row = on_gpu(of_row), gpu_of_slot = on_gpu(of_slot);
      const Both x = both({tokens, width}, dtype, 1), dy = both({tokens, width}, dtype, 2);
      Both rows = poisoned({num_rows, width}, dtype);
      ops::gather_rows(rows.gpu.view(), x.gpu.view(), gpu_of_row.view(), gpu_stream());
      ops::reference::gather_rows(rows.exact.view(), x.exact.view(), of_row.view(), cpu_stream());
      check_gpu("rows", rows, {0, 0});
      for (const bool weighted : {false, true}) {
        for (const bool accumulate : {false, true}) {
          Both y = accumulate ? both({tokens, width}, dtype, 3) : poisoned({tokens, width}, dtype);
          ops::combine_forward(y.gpu.view(), rows.gpu.view(), gpu_of_slot.view(), r.gpu_indices.view(),
                               weighted ? r.weights.gpu.view() : ConstTensorView(), accumulate, gpu_stream());
          ops::reference::combine_forward(y.exact.view(), rows.exact.view(), of_slot.view(), r.indices.view(),
                                          weighted ? r.weights.exact.view() : ConstTensorView(), accumulate,
                                          cpu_stream());
          check_gpu("y", y, gpu_tolerance(dtype));
        }
      }
      // Rounded step by step: the loops of the CPU in the same type, bit for bit (two terms, so no fused
      // sums).
      Tensor rounded({tokens, width}, dtype, Device::cuda), on_cpu({tokens, width}, dtype);
      ops::combine_forward_rounded(rounded.view(), rows.gpu.view(), gpu_of_slot.view(), r.gpu_indices.view(),
                                   r.weights.gpu.view(), gpu_stream());
      ops::reference::combine_forward_rounded(on_cpu.view(), from_gpu(rows.gpu).view(), of_slot.view(),
                                              r.indices.view(), from_gpu(r.weights.gpu).view(), cpu_stream());
      if (dtype == DType::bfloat16) BOOST_TEST(same_bits(from_gpu(rounded), on_cpu));
      Both drows = poisoned({num_rows, width}, dtype), dweights = poisoned({tokens, top_k}, DType::float32);
      ops::combine_backward(drows.gpu.view(), dweights.gpu.view(), dy.gpu.view(), rows.gpu.view(),
                            gpu_of_slot.view(), r.weights.gpu.view(), gpu_stream());
      ops::reference::combine_backward(drows.exact.view(), dweights.exact.view(), dy.exact.view(),
                                       rows.exact.view(), of_slot.view(), r.weights.exact.view(),
                                       cpu_stream());
      check_gpu("drows", drows, gpu_tolerance(dtype));
      check_gpu("dweights", dweights, gpu_tolerance(DType::float32, static_cast<double>(width)));
    }
  }
}

BOOST_AUTO_TEST_CASE(row_layout_equals_the_cpu) {
  for (const Size& s : {Size{0, 3, 2}, Size{1, 1, 1}, Size{300, 5, 2}, Size{400, 300, 3}}) {
    const Tensor indices = random_ids({s.tokens, s.top_k}, s.experts > 2 ? s.experts - 1 : s.experts, 1);
    Tensor place({s.experts}, DType::int32);  // the last expert stays empty and comes first
    for (std::int64_t e = 0; e < s.experts; ++e) {
      place.data<std::int32_t>()[e] = static_cast<std::int32_t>((e * 7 + 1) % s.experts);
    }
    const std::int64_t slots = s.tokens * s.top_k;
    Tensor rows({slots}, DType::int32), of_slot({s.tokens, s.top_k}, DType::int32),
        counts({s.experts}, DType::int64);
    const Tensor gpu_indices = on_gpu(indices), gpu_place = on_gpu(place);
    Tensor gpu_rows = on_gpu(rows), gpu_of_slot = on_gpu(of_slot), gpu_counts = on_gpu(counts);
    Stream here;
    ops::lay_out_rows(rows.view(), of_slot.view(), counts.view(), indices.view(), place.view(), here);
    ops::lay_out_rows(gpu_rows.view(), gpu_of_slot.view(), gpu_counts.view(), gpu_indices.view(),
                      gpu_place.view(), gpu_stream());
    BOOST_TEST(same_bits(from_gpu(gpu_rows), rows));
    BOOST_TEST(same_bits(from_gpu(gpu_of_slot), of_slot));
    BOOST_TEST(same_bits(from_gpu(gpu_counts), counts));
    for (std::int64_t slot = 0; slot < slots; ++slot) {  // and the CPU's means what it says
      const std::int32_t row = of_slot.data<std::int32_t>()[slot];
      BOOST_REQUIRE_EQUAL(rows.data<std::int32_t>()[row], slot / s.top_k);
    }
  }
}

BOOST_AUTO_TEST_CASE(adamw) {
  for (const DType dtype : fast_dtypes) {
    for (const std::int64_t n : {1, 5, 64, 1031}) {
      Both weight = poisoned({n}, dtype), master = both({n}, DType::float32, 1),
           m = both({n}, DType::float32, 2, 0.1);
      Both v = both({n}, DType::float32, 3, 0.1);
      const Both grad = both({n}, DType::float32, 4);
      Tensor squares({n}, DType::float32);  // second moments are not negative
      for (std::int64_t i = 0; i < n; ++i) {
        squares.data<float>()[i] = static_cast<float>(v.exact.data<double>()[i] * v.exact.data<double>()[i]);
      }
      v = both(squares);
      const ops::AdamWStep step{1e-2, 0.9, 0.999, 1e-8, 0.1, 3, 0.7};
      ops::adamw_update(weight.gpu.view(), master.gpu.view(), m.gpu.view(), v.gpu.view(), grad.gpu.view(),
                        step, gpu_stream());
      ops::reference::adamw_update(weight.exact.view(), master.exact.view(), m.exact.view(), v.exact.view(),
                                   grad.exact.view(), step, cpu_stream());
      check_gpu("master", master, gpu_tolerance(DType::float32, 8));
      check_gpu("exp_avg", m, gpu_tolerance(DType::float32));
      check_gpu("exp_avg_sq", v, gpu_tolerance(DType::float32));
      check_gpu("weight", weight, gpu_tolerance(dtype, 8));
    }
  }
}

BOOST_AUTO_TEST_CASE(squared_norm_has_the_bits_of_the_cpu) {
  for (const DType dtype : fast_dtypes) {
    for (const std::int64_t n : {0, 1, 4095, 4096, 4097, 40 * 4096 + 17}) {
      const Tensor x = random_tensor({n}, dtype, 1), gpu_x = on_gpu(x);
      const std::int64_t blocks = (n + ops::norm_block - 1) / ops::norm_block;
      Tensor wanted({blocks}, DType::float64), got = on_gpu(wanted);
      ops::reference::sum_of_squares(wanted.view(), x.view(), cpu_stream());
      ops::sum_of_squares(got.view(), gpu_x.view(), gpu_stream());
      BOOST_TEST(same_bits(from_gpu(got), wanted));
    }
  }
}

// Gradients of whole models against central differences in float64, for every trainable tensor (METHOD 5-6).
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "support/gradcheck.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using model::TrainableSet;

namespace {

/// Smallest gap between the k-th and the next probability over all routed tokens: the differences below may
/// only be taken where no choice changes within the step.
class MarginObserver : public model::ActivationObserver {
 public:
  bool wants(const model::ActivationSite&) const override { return false; }
  void observe(const model::ActivationSite&, ConstTensorView, ConstTensorView) override {}
  void observe_router(int, ConstTensorView probs, ConstTensorView, ConstTensorView indices,
                      ConstTensorView) override {
    const std::int64_t num_experts = probs.dim(1), k = indices.dim(1);
    for (std::int64_t t = 0; t < probs.dim(0); ++t) {
      std::vector<double> p(probs.data<double>() + t * num_experts,
                            probs.data<double>() + (t + 1) * num_experts);
      std::sort(p.rbegin(), p.rend());
      if (k < num_experts)
        margin = std::min(margin, p[static_cast<std::size_t>(k - 1)] - p[static_cast<std::size_t>(k)]);
    }
  }
  double margin = 1.0;
};

void check_all_gradients(const model::ModelConfig& config, TrainableSet trainable,
                         const model::LossScales& scales) {
  test::LocalDecoder local(config, DType::float64, trainable, 3);
  test::perturb(local.decoder, 5, 0.1);
  const model::BatchBuilder builder = test::random_batch({5, 1, 7}, config.vocab_size, 11);
  const model::Batch batch = builder.batch();
  MarginObserver margins;
  local.decoder.observe(batch, margins);
  BOOST_REQUIRE_GT(margins.margin, 1e-3);  // the step is 6e-6: choices stay as they are

  const auto loss = [&] {
    const model::Losses l = local.decoder.forward_backward(batch, scales);
    return scales.lm * l.lm_sum + scales.balancing * l.balancing + scales.lpr * l.lpr;
  };
  BOOST_CHECK_EQUAL(local.decoder.gradient_bytes(),
                    0);  // an optimizer that lets stages share has none to free
  local.decoder.zero_gradients();
  loss();
  std::vector<Tensor> analytic;
  for (const model::Parameter& p : local.decoder.parameters()) {
    Tensor copy(p.shape, DType::float64);
    if (p.trainable) std::copy_n(p.grad.data<double>(), p.shape.num_elements(), copy.data<double>());
    analytic.push_back(std::move(copy));
  }
  std::size_t at = 0, checked = 0;
  for (model::Parameter& p : local.decoder.parameters()) {
    const Tensor& expected = analytic[at++];
    BOOST_CHECK_EQUAL(bool(p.grad), p.trainable);
    if (!p.trainable) continue;
    test::check_gradient(p.name, loss, p.value, expected);
    ++checked;
  }
  BOOST_CHECK_GT(checked, 0U);
}

constexpr model::LossScales lm_only{.lm = 0.1};

}  // namespace

BOOST_AUTO_TEST_CASE(dense_llama_with_tied_head) {
  check_all_gradients(test::tiny_config({1, 1}), TrainableSet::all, lm_only);
}

BOOST_AUTO_TEST_CASE(dense_qwen_with_bias_and_untied_head) {
  model::ModelConfig config = test::tiny_config({1, 1});
  config.model_type = "qwen2";
  config.attention_bias = true;
  config.tie_word_embeddings = false;
  check_all_gradients(config, TrainableSet::all, lm_only);
}

BOOST_AUTO_TEST_CASE(dense_qwen3_with_norms_of_q_and_k) {
  model::ModelConfig config = test::tiny_config({1, 1});
  config.model_type = "qwen3";
  config.qk_norm = true;
  config.head_dim = 6;  // not hidden / heads
  check_all_gradients(config, TrainableSet::all, lm_only);
}

BOOST_AUTO_TEST_CASE(gradients_pass_through_frozen_norms_of_q_and_k) {
  model::ModelConfig config = test::tiny_config({2, 1, 3});
  config.qk_norm = true;
  check_all_gradients(config, TrainableSet::experts_and_routers, {.lm = 0.1, .balancing = 0.5});
}

BOOST_AUTO_TEST_CASE(stage_1_with_balancing_loss,
                     *boost::unit_test::label("trap_06") * boost::unit_test::label("complaint_routed_anew")) {
  check_all_gradients(test::tiny_config({3, 1, 2, 4}), TrainableSet::experts_and_routers,
                      {.lm = 0.1, .balancing = 0.5});
}

BOOST_AUTO_TEST_CASE(stage_1_where_the_lowest_layers_are_dense) {
  check_all_gradients(test::tiny_config({1, 1, 3}), TrainableSet::experts_and_routers,
                      {.lm = 0.1, .balancing = 0.5});
}

BOOST_AUTO_TEST_CASE(stage_1_of_an_extended_mixture) {
  model::ModelConfig config = test::tiny_config({3, 2, 1, 4});
  config.num_old_experts = {2, 2, 1, 1};
  check_all_gradients(config, TrainableSet::experts_and_routers, {.lm = 0.1, .balancing = 0.5});
}

BOOST_AUTO_TEST_CASE(stage_2_with_both_forms_and_means_of_the_prior_loss) {
  for (const auto form : {ops::LprForm::double_softmax, ops::LprForm::nll}) {
    for (const bool by_expert_count : {true, false}) {
      check_all_gradients(test::tiny_config({3, 2, 1, 3}), TrainableSet::routers,
                          {.lm = 0.1, .lpr = 0.7, .lpr_form = form, .lpr_by_expert_count = by_expert_count});
    }
  }
}

BOOST_AUTO_TEST_CASE(everything_trainable_in_a_mixture_with_top_1, *boost::unit_test::label("trap_10")) {
  model::ModelConfig config = test::tiny_config({2, 3});
  config.top_k = 1;
  check_all_gradients(config, TrainableSet::all, {.lm = 0.1, .balancing = 0.3, .lpr = 0.2});
}

BOOST_AUTO_TEST_CASE(an_upcycled_model_equals_its_base_at_step_0, *boost::unit_test::label("trap_11")) {
  const model::BatchBuilder builder = test::random_batch({9, 4}, 19, 2);
  test::LocalDecoder dense(test::tiny_config({1, 1, 1}), DType::float64, TrainableSet::none, 8);
  test::LocalDecoder moe(test::tiny_config({6, 1, 3}), DType::float64, TrainableSet::none, 8);
  const std::vector<double> expected = dense.decoder.token_log_probs(builder.batch());
  const std::vector<double> found = moe.decoder.token_log_probs(builder.batch());
  for (std::size_t t = 0; t < expected.size(); ++t) BOOST_CHECK_SMALL(found[t] - expected[t], 1e-13);
}

BOOST_AUTO_TEST_CASE(no_gradient_below_the_lowest_trainable_layer,
                     *boost::unit_test::label("complaint_routers_drift")) {
  const model::FreezePlan plan =
      model::make_freeze_plan(test::tiny_config({1, 2, 1, 3}), TrainableSet::routers);
  BOOST_CHECK_EQUAL(plan.lowest_layer, 1);
  BOOST_CHECK(!plan.layers[0].any_backward());
  BOOST_CHECK(!plan.layers[1].layer_input && !plan.layers[1].mlp_input && plan.layers[1].router &&
              !plan.layers[1].experts);
  BOOST_CHECK(plan.layers[2].layer_input && plan.layers[2].mlp_input && !plan.layers[2].router);
  BOOST_CHECK(plan.layers[3].router && !plan.embedding && !plan.head);
}

BOOST_AUTO_TEST_CASE(a_batch_without_tokens_gives_zero_losses_and_gradients) {
  test::LocalDecoder local(test::tiny_config({3, 1}), DType::float32, TrainableSet::experts_and_routers);
  local.decoder.zero_gradients();
  const model::BatchBuilder empty;
  const model::Losses losses =
      local.decoder.forward_backward(empty.batch(), {.lm = 1.0, .balancing = 1.0, .lpr = 1.0});
  BOOST_CHECK_EQUAL(losses.lm_sum, 0.0);
  BOOST_CHECK_EQUAL(losses.balancing, 0.0);
  for (const model::Parameter& p : local.decoder.parameters()) {
    if (!p.grad) continue;
    const float* grad = p.grad.data<float>();
    BOOST_CHECK(std::all_of(grad, grad + p.grad.num_elements(), [](float g) { return g == 0.0F; }));
  }
}

// Dense models of every family against transformers: logits, loss and every gradient; and the upcycled model
// at step 0 against its dense base (METHOD 5).
#include "neuronmoe/model/hf_model.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "support/golden.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using model::TrainableSet;

namespace {

// float32 against an oracle in float64. Each matrix product of 32 to 128 terms rounds to about 2^-24 ·
// sqrt(128) = 7e-7 of its result; a dozen of them in a row, added in quadrature, stay below 3e-6.
// transformers' own float32 run is 4e-7 away from its float64 one (reference.json, float32_error).
constexpr double float32_bound = 1e-5;

// bfloat16 keeps 8 bits: a rounding moves a value by up to 2^-9 = 2e-3 of itself, 1.1e-3 in the mean square.
// About 12 roundings per layer lie on the way of the residual stream: 1.1e-3 · sqrt(2 · 12) = 5.5e-3 of it,
// and the final norm, the head and cancellation in it about double that. A wrong rotation or a lost bias is
// beyond 1e-1.
constexpr double bfloat16_bound = 1.5e-2;

struct GoldenModel {
  explicit GoldenModel(const std::string& name, DType dtype = DType::float32,
                       TrainableSet trainable = TrainableSet::all)
      : reference(test::golden_reference().at(name)),
        local(model::load_model_config(test::golden_path(name) + "/config.json"), dtype, trainable),
        builder(test::golden_batch(reference)) {
    model::load_dense_weights(local.decoder, test::golden_path(name));
  }
  nlohmann::json reference;
  test::LocalDecoder local;
  model::BatchBuilder builder;
};

void check_float32(const std::string& name) {
  GoldenModel golden(name);
  const io::SafetensorsReader expected(test::golden_path(name + "/golden.safetensors"));
  model::Decoder& decoder = golden.local.decoder;
  const Tensor logits = decoder.logits(golden.builder.batch());
  BOOST_TEST(test::norm_error(test::wide(logits.view()), test::golden_tensor(expected, "logits")) <
             float32_bound);

  decoder.zero_gradients();
  std::int64_t num_labels = 0;
  for (const auto& row : golden.reference.at("labels")) {
    for (const int label : row) num_labels += label >= 0 ? 1 : 0;
  }
  const model::Losses losses =
      decoder.forward_backward(golden.builder.batch(), {.lm = 1.0 / static_cast<double>(num_labels)});
  BOOST_TEST(losses.num_labels == num_labels);
  BOOST_TEST(test::relative(losses.lm_sum / static_cast<double>(num_labels), golden.reference.at("loss")) <
             float32_bound);
  std::size_t checked = 0;
  for (const model::Parameter& p : decoder.parameters()) {
    const double error =
        test::norm_error(test::wide(p.grad), test::golden_tensor(expected, "grad." + p.name));
    BOOST_CHECK_MESSAGE(error < float32_bound, name << ": gradient of " << p.name << " is off by " << error);
    ++checked;
  }
  BOOST_TEST(checked + 1 == expected.names().size());  // every gradient there is, and the logits
}

void check_bfloat16(const std::string& name) {
  GoldenModel golden(name, DType::bfloat16, TrainableSet::none);
  const io::SafetensorsReader expected(test::golden_path(name + "/bfloat16.safetensors"));
  const Tensor logits = golden.local.decoder.logits(golden.builder.batch());
  const double error = test::norm_error(test::wide(logits.view()), test::golden_tensor(expected, "logits"));
  BOOST_TEST(error < bfloat16_bound);
  BOOST_TEST(error < 1.5 * golden.reference.at("bfloat16_error").get<double>());  // transformers in bfloat16
}

}  // namespace

BOOST_AUTO_TEST_CASE(llama_with_scaled_rotary_embedding_and_tied_head) {
  check_float32("llama");
}

BOOST_AUTO_TEST_CASE(qwen_with_biases_and_untied_head) {
  check_float32("qwen");
}

BOOST_AUTO_TEST_CASE(mistral_without_a_window) {
  check_float32("mistral");
}

BOOST_AUTO_TEST_CASE(qwen3_with_norms_of_q_and_k_and_wide_heads) {
  check_float32("qwen3");
}

BOOST_AUTO_TEST_CASE(bfloat16_models) {
  for (const char* name : {"llama", "qwen", "mistral", "qwen3"}) check_bfloat16(name);
}

/// Neurons of q and k are outputs of the Linear (METHOD 1.3), so the norm behind it does not change them.
BOOST_AUTO_TEST_CASE(observed_q_and_k_are_not_normed) {
  struct FirstLayer : model::ActivationObserver {
    bool wants(const model::ActivationSite& site) const override {
      return site.layer == 0 &&
             (site.projection == model::Projection::q || site.projection == model::Projection::k);
    }
    void observe(const model::ActivationSite&, ConstTensorView values, ConstTensorView) override {
      seen.push_back(test::wide(values));
    }
    std::vector<std::vector<double>> seen;
  };
  GoldenModel golden("qwen3", DType::float32, TrainableSet::none);
  model::Decoder& decoder = golden.local.decoder;
  const model::Batch batch = golden.builder.batch();
  FirstLayer before, after;
  decoder.observe(batch, before);
  const std::vector<double> logits = test::wide(decoder.logits(batch).view());
  for (const model::Role role : {model::Role::q_norm, model::Role::k_norm})
    ops::fill(decoder.parameter(role, 0).value.view(), 3.0, decoder.stream());
  decoder.observe(batch, after);
  BOOST_TEST((before.seen.size() == 2 && before.seen == after.seen));
  BOOST_TEST(test::norm_error(test::wide(decoder.logits(batch).view()), logits) > 0.1);
}

// Copies of the base weighted with 1 in total: only the rounding of the weights and of the sum differs, a few
// times 2^-24.
BOOST_AUTO_TEST_CASE(an_upcycled_model_gives_the_logits_of_transformers_and_its_base) {
  for (const std::string name : {"llama", "qwen", "mistral", "qwen3"}) {
    GoldenModel dense(name, DType::float32, TrainableSet::none);
    const Tensor expected = dense.local.decoder.logits(dense.builder.batch());
    for (const int top_k : {2, 6}) {
      model::ModelConfig config = dense.local.decoder.config();
      config.num_experts = {6, 3};
      config.top_k = top_k;
      test::LocalDecoder moe(config, DType::float32, TrainableSet::none);
      model::load_dense_weights(moe.decoder, test::golden_path(name));
      moe.decoder.upcycle(7);
      const Tensor found = moe.decoder.logits(dense.builder.batch());
      BOOST_TEST(test::norm_error(test::wide(found.view()), test::wide(expected.view())) < 1e-6);
    }
  }
}

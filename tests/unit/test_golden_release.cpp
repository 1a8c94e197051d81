// router.compat = release (METHOD 11 row 38) against plain PyTorch in bfloat16, on a model whose numbers are
// exact up to the points in question.
#include "support/golden.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;

namespace {

/// What the router of layer 0 chose.
struct RouterObserver : model::ActivationObserver {
  bool wants(const model::ActivationSite&) const override { return false; }
  void observe(const model::ActivationSite&, ConstTensorView, ConstTensorView) override {}
  void observe_router(int, ConstTensorView p, ConstTensorView w, ConstTensorView, ConstTensorView) override {
    probs = test::wide(p);
    weights = test::wide(w);
  }
  std::vector<double> probs, weights;
};

struct Found {
  std::vector<double> logits, probs, weights;
};

Found run_exact_model(bool release) {
  model::ModelConfig config = model::load_model_config(test::golden_path("moe/config.json"));
  config.num_layers = 1;
  config.num_experts = {3};
  config.tie_word_embeddings = false;
  config.release_router = release;
  test::LocalDecoder local(config, DType::bfloat16, model::TrainableSet::none);
  test::load_weights(local.decoder, "moe/exact_model.safetensors");
  const model::BatchBuilder builder = test::golden_batch(test::golden_reference().at("moe").at("exact"));
  RouterObserver observer;
  local.decoder.observe(builder.batch(), observer);
  return {test::wide(local.decoder.logits(builder.batch()).view()), observer.probs, observer.weights};
}

}  // namespace

BOOST_AUTO_TEST_CASE(release_rounds_where_the_lineage_does, *boost::unit_test::label("trap_07")) {
  const io::SafetensorsReader expected(test::golden_path("moe/exact.safetensors"));
  for (const bool release : {true, false}) {
    const std::string kind = release ? "release" : "none", other = release ? "none" : "release";
    const Found found = run_exact_model(release);
    const auto distance = [&](const std::string& which, const std::string& name,
                              const std::vector<double>& values) {
      return test::norm_error(values, test::golden_tensor(expected, which + "." + name));
    };
    // Exact logits, then a softmax in float32: a few units of 2^-24.
    BOOST_TEST(distance(kind, "probs", found.probs) < 1e-6);
    BOOST_TEST(distance(kind, "weights", found.weights) < 1e-6);
    // Sums that land within 2^-24 of the middle of two bfloat16 numbers may round either way: a few elements
    // in a thousand by 2^-8, that is 3e-4 in the norm. Rounding elsewhere moves every element by 1e-3.
    BOOST_TEST(distance(kind, "logits", found.logits) < 3e-4);
    // The other mode is seen as another: bfloat16 logits of size 2 are off by 2^-9, and so are probabilities.
    BOOST_TEST(distance(other, "probs", found.probs) > 1e-4);
    BOOST_TEST(distance(other, "logits", found.logits) > 6e-4);
  }
}

BOOST_AUTO_TEST_CASE(release_changes_nothing_in_float32) {
  model::ModelConfig config = test::tiny_config({3, 2});
  const model::BatchBuilder builder = test::random_batch({7, 5}, config.vocab_size, 3);
  test::LocalDecoder plain(config, DType::float32, model::TrainableSet::none);
  config.release_router = true;
  test::LocalDecoder release(config, DType::float32, model::TrainableSet::none);
  // The combination may use fused multiply-adds in one and not in the other.
  BOOST_TEST(test::norm_error(test::wide(release.decoder.logits(builder.batch()).view()),
                              test::wide(plain.decoder.logits(builder.batch()).view())) < 1e-6);
}

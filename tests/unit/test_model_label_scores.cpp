// Log-probabilities of labels at chosen tokens, with and without shared prefixes, against transformers and
// against passes over whole sequences.
#include "neuronmoe/model/hf_model.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "support/golden.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using model::LabelAt;
using model::LabelScore;
using Ids = std::vector<std::int32_t>;

namespace {

// As in test_golden_models: the products of a pass in float32 leave each logit within 1e-5 of the largest,
// and the golden logits are of size 1.
constexpr double golden_bound = 2e-5;
// The same sums over the same keys, taken in other pieces: a few units of 2^-24 in each of a dozen steps.
constexpr double order_bound = 1e-5;

/// Scores of `continuation` behind `context` in a pass over the two alone.
std::vector<LabelScore> alone(model::Decoder& decoder, const Ids& context, const Ids& continuation) {
  model::BatchBuilder builder;
  Ids ids = context;
  ids.insert(ids.end(), continuation.begin(), continuation.end() - 1);
  builder.add(ids, {}, {});
  std::vector<LabelAt> labels;
  for (std::size_t t = 0; t < continuation.size(); ++t)
    labels.push_back({static_cast<std::int32_t>(context.size() - 1 + t), continuation[t]});
  return decoder.label_scores(builder.batch(), labels);
}

/// Two contexts with three continuations each, of which one has a single token, in one pass.
void check_shared(model::Decoder& decoder, const Ids& text) {
  const auto part = [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    return Ids(text.begin() + begin, text.begin() + end);
  };
  const std::vector<Ids> contexts = {part(0, 7), part(3, 5)};
  const std::vector<Ids> continuations = {part(7, 12), part(2, 3), part(1, 9)};
  model::BatchBuilder builder;
  for (const Ids& context : contexts) builder.add(context, {}, {});
  std::vector<LabelAt> labels;
  std::vector<LabelScore> expected;
  std::int64_t last_of_context = -1;
  for (std::size_t c = 0; c < contexts.size(); ++c) {
    last_of_context += static_cast<std::int64_t>(contexts[c].size());
    for (const Ids& continuation : continuations) {
      std::int64_t at = builder.num_tokens() - 1;
      if (continuation.size() > 1)
        builder.add_continuation(static_cast<std::int64_t>(c),
                                 std::span(continuation).first(continuation.size() - 1));
      for (std::size_t t = 0; t < continuation.size(); ++t, ++at)
        labels.push_back({static_cast<std::int32_t>(t == 0 ? last_of_context : at), continuation[t]});
      for (const LabelScore& score : alone(decoder, contexts[c], continuation)) expected.push_back(score);
    }
  }
  const auto found = decoder.label_scores(builder.batch(), labels);
  BOOST_REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    BOOST_TEST(std::abs(found[i].log_prob - expected[i].log_prob) < order_bound);
    BOOST_TEST(found[i].greedy == expected[i].greedy);
  }
}

struct GoldenModel {
  explicit GoldenModel(const std::string& name)
      : reference(test::golden_reference().at(name)),
        local(model::load_model_config(test::golden_path(name) + "/config.json"), DType::float32,
              model::TrainableSet::none) {
    model::load_dense_weights(local.decoder, test::golden_path(name));
    ids = reference.at("ids").get<std::vector<Ids>>();
  }
  nlohmann::json reference;
  test::LocalDecoder local;
  std::vector<Ids> ids;
};

}  // namespace

BOOST_AUTO_TEST_CASE(log_probabilities_of_transformers) {
  for (const std::string name : {"llama", "qwen", "qwen3"}) {
    GoldenModel golden(name);
    const io::SafetensorsReader file(test::golden_path(name + "/golden.safetensors"));
    const std::vector<double> logits = test::golden_tensor(file, "logits");
    const auto vocab = static_cast<std::size_t>(golden.local.decoder.config().vocab_size);
    const Ids& text = golden.ids.front();
    const auto split = static_cast<std::ptrdiff_t>(text.size() / 2);
    const Ids context(text.begin(), text.begin() + split), continuation(text.begin() + split, text.end());
    // The same continuation twice, so that its context is shared.
    model::BatchBuilder builder;
    builder.add(context, {}, {});
    std::vector<LabelAt> labels;
    for (int copy = 0; copy < 2; ++copy) {
      labels.push_back({static_cast<std::int32_t>(split - 1), continuation.front()});
      for (std::size_t t = 1; t < continuation.size(); ++t)
        labels.push_back({static_cast<std::int32_t>(builder.num_tokens() + static_cast<std::int64_t>(t) - 1),
                          continuation[t]});
      builder.add_continuation(0, std::span(continuation).first(continuation.size() - 1));
    }
    const auto scores = golden.local.decoder.label_scores(builder.batch(), labels);
    for (std::size_t t = 0; t < continuation.size(); ++t) {
      const double* const row = logits.data() + (static_cast<std::size_t>(split) - 1 + t) * vocab;
      double total = 0.0;
      for (std::size_t v = 0; v < vocab; ++v) total += std::exp(row[v]);
      const double expected = row[continuation[t]] - std::log(total);
      for (const std::size_t i : {t, continuation.size() + t}) {
        BOOST_TEST(std::abs(scores[i].log_prob - expected) < golden_bound);
        BOOST_TEST(scores[i].greedy == (std::max_element(row, row + vocab) - row ==
                                        static_cast<std::ptrdiff_t>(continuation[t])));
      }
    }
    check_shared(golden.local.decoder, text);
  }
}

BOOST_AUTO_TEST_CASE(a_shared_context_of_a_mixture) {
  test::LocalDecoder local(test::tiny_config({1, 3, 4}), DType::float32, model::TrainableSet::none);
  test::perturb(local.decoder, 5, 0.3);
  check_shared(local.decoder, {3, 14, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9});
}

BOOST_AUTO_TEST_CASE(without_prefixes_the_bits_of_token_log_probs) {
  test::LocalDecoder local(test::tiny_config({1, 3}), DType::float32, model::TrainableSet::none);
  test::perturb(local.decoder, 6, 0.3);
  const model::BatchBuilder builder = test::random_batch({5, 9, 1, 30}, 19, 3);
  const model::Batch batch = builder.batch();
  const std::vector<double> whole = local.decoder.token_log_probs(batch);
  const Tensor logits = local.decoder.logits(batch);
  std::vector<LabelAt> labels;
  for (std::int32_t t = 0; t < static_cast<std::int32_t>(batch.num_tokens()); ++t) {
    const std::int32_t label = batch.labels.data<std::int32_t>()[t];
    if (label >= 0) labels.push_back({t, label});
  }
  const auto scores = local.decoder.label_scores(batch, labels);
  int greedy = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const auto t = static_cast<std::size_t>(labels[i].token);
    const double tolerance = ops::cpu::rows_are_independent() ? 0.0 : 1e-6;
    BOOST_TEST(std::abs(scores[i].log_prob - whole[t]) <= tolerance);
    const float* const row = logits.data<float>() + t * 19;
    BOOST_TEST(scores[i].greedy == (std::max_element(row, row + 19) - row == labels[i].label));
    greedy += scores[i].greedy ? 1 : 0;
  }
  BOOST_TEST(greedy > 0);
  BOOST_TEST(local.decoder.label_scores(batch, {}).empty());
  BOOST_TEST(local.decoder.label_scores(model::BatchBuilder().batch(), {}).empty());
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused) {
  test::LocalDecoder local(test::tiny_config({1}), DType::float32, model::TrainableSet::all);
  model::BatchBuilder builder;
  builder.add(Ids{1, 2}, {}, {});
  for (const LabelAt bad : {LabelAt{2, 0}, LabelAt{-1, 0}, LabelAt{0, 19}, LabelAt{0, -1}})
    BOOST_CHECK_THROW(local.decoder.label_scores(builder.batch(), std::vector{bad}), Error);
  builder.add_continuation(0, Ids{3});
  local.decoder.label_scores(builder.batch(), {});
  BOOST_CHECK_THROW(local.decoder.forward_backward(builder.batch(), {}), Error);  // has no backward
  builder.add_continuation(1, Ids{3});                                            // is a continuation itself
  BOOST_CHECK_THROW(local.decoder.label_scores(builder.batch(), {}), Error);
}

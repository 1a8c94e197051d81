// analyze and specialize on the real decoder: float32, same bits on 1 to 4 ranks, experts spread over all
// ranks.
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "neuronmoe/analysis/neuron_analysis.hpp"
#include "neuronmoe/analysis/specialize.hpp"
#include "neuronmoe/evaluation/continuation.hpp"
#include "neuronmoe/evaluation/perplexity.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "support/fake_analysis.hpp"
#include "support/mpi_fixture.hpp"

using namespace nmoe;
using namespace nmoe::analysis;
using namespace nmoe::test;

namespace {

model::ModelConfig small_config(std::vector<int> num_experts) {
  model::ModelConfig config;
  config.vocab_size = 258;
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_layers = static_cast<int>(num_experts.size());
  config.num_attention_heads = 3;
  config.num_key_value_heads = 1;
  config.head_dim = 8;
  config.max_position_embeddings = 64;
  config.num_experts = std::move(num_experts);
  return config;
}

SampleSet toy_samples(int per_language = 20) {
  std::vector<SensePool> pools;
  const char* names[] = {"en", "el", "tr"};
  for (int g = 0; g < 3; ++g) pools.push_back({names[g], "toy", "none", toy_sentences(g, per_language)});
  const ByteTokenizer tokenizer(true);
  return tokenize_pools(pools, tokenizer, 40);
}

// A decoder whose experts are spread over `comm`.
struct Model {
  Model(const model::ModelConfig& config, comm::Communicator& comm)
      : decoder(config, DType::float32, model::TrainableSet::none,
                {comm, model::ExpertPlacement(config.num_experts, comm.size())}, stream) {
    decoder.initialise_dense(11);
    if (config.num_moe_layers() > 0) decoder.upcycle(12);
  }
  ObserveFunction observe() {
    return [this](const model::Batch& batch, model::ActivationObserver& observer) {
      decoder.observe(batch, observer);
    };
  }
  evaluation::LabelScoreFunction label_scores(model::ActivationObserver& observer) {
    return [this, &observer](const model::Batch& batch, std::span<const model::LabelAt> labels) {
      return decoder.label_scores(batch, labels, &observer);
    };
  }
  evaluation::LogProbFunction log_probs() {
    return [this](const model::Batch& batch, model::ActivationObserver* observer) {
      return decoder.token_log_probs(batch, observer);
    };
  }
  Stream stream;
  model::Decoder decoder;
};

AnalysisConfig options() {
  AnalysisConfig config;
  config.batch_tokens = 60;
  config.top_k = 20;
  config.ap_min = 0.0;
  return config;
}

template <typename T>
void check_same(const std::vector<std::vector<T>>& a, const std::vector<std::vector<T>>& b) {
  BOOST_REQUIRE(a.size() == b.size());
  for (std::size_t g = 0; g < a.size(); ++g) BOOST_TEST(a[g] == b[g], boost::test_tools::per_element());
}

}  // namespace

BOOST_AUTO_TEST_CASE(dense_neurons_have_the_same_bits) {
  const auto config = small_config({1, 1});
  const auto samples = toy_samples();
  const auto alone = comm::make_local_communicator();
  Model dense(config, *alone);
  TestContext many(world()), one(*alone);
  const auto result = analyse_neurons(many.context, options(), config, samples, dense.observe());
  const auto expected = analyse_neurons(one.context, options(), config, samples, dense.observe());
  if (world().rank() != 0) return;
  for_each_statistic(
      result, expected,
      [](std::string_view, const auto& x, const auto& y, const StatisticInfo&) { check_same(x, y); });
  BOOST_TEST(result.similarity == expected.similarity, boost::test_tools::per_element());
  for (const double s : result.similarity) BOOST_TEST((s > -1.0 && s < 1.0 && s != 0.0));
  // Untrained weights still tell alphabets apart better than chance (prevalence 1/3).
  BOOST_TEST(result.selected[0].threshold > 1.0 / 3);
}

// Batches of another size are other matrix products. Where a row of a product does not depend on the other
// rows the results keep their bits; on other CPUs responses are rounded otherwise, and samples whose
// responses are closer than that may change places.
BOOST_AUTO_TEST_CASE(batches_of_another_size_change_no_bit) {
  const auto config = small_config({1, 1, 1});
  const auto samples = toy_samples(200);
  const auto alone = comm::make_local_communicator();
  Model dense(config, *alone);
  TestContext many(world());
  AnalysisConfig setting = options();
  std::vector<NeuronStatistics> results;
  for (const std::int64_t batch_tokens : {40, 333, 4096}) {
    setting.batch_tokens = batch_tokens;
    results.push_back(analyse_neurons(many.context, setting, config, samples, dense.observe()));
  }
  if (world().rank() != 0) return;
  for (std::size_t i = 1; i < results.size(); ++i) {
    const NeuronStatistics &a = results[0], &b = results[i];
    const bool same = ops::cpu::rows_are_independent();
    for_each_statistic(a, b, [&](std::string_view name, const auto& x, const auto& y, const StatisticInfo&) {
      if (same) check_same(x, y);
      if (name == "ap") return;
      for (std::size_t g = 0; g < 3; ++g) {
        auto largest = std::abs(x[g][0]);
        for (const auto v : x[g]) largest = std::max(largest, std::abs(v));
        for (std::size_t n = 0; n < x[g].size(); ++n)
          BOOST_TEST(std::abs(x[g][n] - y[g][n]) <= 1e-6F * largest);
      }
    });
  }
}

BOOST_AUTO_TEST_CASE(experts_spread_over_ranks_have_the_same_bits) {
  const auto config = small_config({3, 1, 2});
  const auto samples = toy_samples();
  const auto alone = comm::make_local_communicator();
  Model spread(config, world()), whole(config, *alone);
  TestContext many(world()), one(*alone);
  const auto result = analyse_experts(many.context, options(), config, samples, spread.observe());
  const auto expected = analyse_experts(one.context, options(), config, samples, whole.observe());
  if (world().rank() != 0) return;
  BOOST_TEST(result.count_tokens == expected.count_tokens, boost::test_tools::per_element());
  check_same(result.neurons.ap, expected.neurons.ap);
  // Two experts per token: the counts of a layer with three experts add up to twice the tokens.
  const auto per_sample = samples.samples.size();
  for (std::size_t s = 0; s < per_sample; ++s) {
    const auto tokens = static_cast<std::uint64_t>(samples.samples[s].ids.size());
    const auto count = [&](std::size_t e) { return result.count_tokens[e * per_sample + s]; };
    BOOST_TEST(count(0) + count(1) + count(2) == 2 * tokens);
    BOOST_TEST(count(3) == tokens);
  }
}

BOOST_AUTO_TEST_CASE(evaluation_has_the_same_bits) {
  const auto config = small_config({3, 1, 2});
  const auto alone = comm::make_local_communicator();
  Model spread(config, world()), whole(config, *alone);
  TestContext many(world()), one(*alone);
  evaluation::HeldOutText text;
  for (int d = 0; d < 70; ++d) {
    auto& request = text.documents.emplace_back();
    request.rolling = true;
    request.ids = {249};
    for (int i = 0; i < d; ++i) request.ids.push_back((i * 7 + i / 11 + d) % 250);
  }
  evaluation::RouterStatistics routers(config), routers_alone(config);
  const auto result = evaluation::perplexity_of(
      text,
      evaluation::measure_log_likelihoods(many.context, text.documents, 32, spread.label_scores(routers)));
  const auto expected =
      evaluation::perplexity_of(text, evaluation::measure_log_likelihoods(one.context, text.documents, 32,
                                                                          whole.label_scores(routers_alone)));
  BOOST_TEST(result.nll() == expected.nll());
  BOOST_TEST(result.ppl() > 100.0);  // an untrained model knows nothing of 258 tokens
  const auto means = routers.finish(world(), many.stream),
             means_alone = routers_alone.finish(*alone, one.stream);
  BOOST_REQUIRE(means.size() == 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    BOOST_TEST(means[i].base_weight == means_alone[i].base_weight);
    BOOST_TEST((means[i].base_weight > 0.0 && means[i].base_weight < 1.0));
  }
  std::vector<evaluation::TokenizedItem> items;
  for (int i = 0; i < 7; ++i) items.push_back({{i, i + 1, i + 2}, {{i + 3, i + 4}, {9, 8, 7}, {100}}, 0});
  const auto acc = evaluation::measure_continuation(many.context, items, 249, 64, spread.log_probs());
  BOOST_TEST(acc.acc == evaluation::measure_continuation(one.context, items, 249, 64, whole.log_probs()).acc);
}

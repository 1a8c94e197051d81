// Perplexity, router weights and the continuation task over ranks: equal to plain loops, same bits on 1 to 4
// ranks.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <fstream>

#include "neuronmoe/evaluation/continuation.hpp"
#include "neuronmoe/evaluation/eval_file.hpp"
#include "support/fake_analysis.hpp"
#include "support/mpi_fixture.hpp"

using namespace nmoe;
using namespace nmoe::evaluation;
using namespace nmoe::test;

namespace {

constexpr std::int32_t eos = 9;

// log p of a label after a token: any smooth function does; the previous token matters, so context helps.
double fake_log_prob(std::int32_t id, std::int32_t label) {
  return -1.0 - std::abs(std::sin(0.7 * id - 0.3 * label)) / 3;
}

std::vector<double> fake_log_probs(const model::Batch& batch, model::ActivationObserver* observer) {
  std::vector<double> result;
  std::vector<float> weights;
  std::vector<std::int32_t> indices;
  for (std::int64_t t = 0; t < batch.num_tokens(); ++t) {
    const std::int32_t id = batch.ids.data<std::int32_t>()[t], label = batch.labels.data<std::int32_t>()[t];
    result.push_back(label < 0 ? 0.0 : fake_log_prob(id, label));
    const float w =
        0.1F * static_cast<float>(id % 9);  // layer 1 chooses the base first, second or not at all
    weights.insert(weights.end(), {1.0F - w, w});
    indices.insert(indices.end(), {id % 3 == 0 ? 0 : 1, id % 3 == 1 ? 0 : 2});
  }
  if (observer != nullptr) {
    const ConstTensorView w(weights.data(), DType::float32, {batch.num_tokens(), 2});
    observer->observe_router(1, {}, w, ConstTensorView(indices.data(), DType::int32, {batch.num_tokens(), 2}),
                             {});
  }
  return result;
}

std::vector<std::int32_t> toy_stream(int length) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < length; ++i) ids.push_back((i * 7 + i / 5) % 31);
  return ids;
}

std::vector<TokenizedItem> toy_items(int count) {
  std::vector<TokenizedItem> items;
  for (int i = 0; i < count; ++i) {
    TokenizedItem item;
    for (int t = 0; t < 3 + i % 5; ++t) item.context.push_back((i + t * 3) % 31);
    for (int c = 0; c < 4; ++c) {
      item.choices.emplace_back();
      for (int t = 0; t < 1 + (i + c) % 4; ++t) item.choices.back().push_back((i * 5 + c * 11 + t) % 31);
    }
    item.gold = static_cast<std::size_t>(i % 4);
    items.push_back(std::move(item));
  }
  return items;
}

bool plain_right(const TokenizedItem& item) {
  std::vector<double> scores;
  for (const auto& choice : item.choices) {
    // Only the first token of a choice sees the context in this toy model.
    const double gain = fake_log_prob(item.context.back(), choice[0]) - fake_log_prob(eos, choice[0]);
    scores.push_back(gain / static_cast<double>(choice.size()));
  }
  return static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin()) ==
         item.gold;
}

}  // namespace

BOOST_AUTO_TEST_CASE(perplexity_equals_a_plain_loop_and_any_rank_count) {
  const auto alone = comm::make_local_communicator();
  TestContext many(world()), one(*alone);
  const model::ModelConfig config = fake_config({1, 3});
  for (const std::int64_t block : {2, 128, 500}) {
    for (const int length : {2, 129, 5001}) {  // a last block of one token predicts nothing
      const auto ids = toy_stream(length);
      RouterStatistics routers(config), routers_alone(config);
      const auto result = measure_perplexity(many.context, ids, block, eos, fake_log_probs, &routers);
      const auto expected = measure_perplexity(one.context, ids, block, eos, fake_log_probs, &routers_alone);
      BOOST_TEST(result.nll == expected.nll);
      double sum = 0.0, base = 0.0;
      std::int64_t labels = 0;
      for (std::size_t t = 0; t < ids.size(); ++t) {
        const double w = static_cast<double>(0.1F * static_cast<float>(ids[t] % 9));
        base += ids[t] % 3 == 0 ? 1.0 - w : ids[t] % 3 == 1 ? w : 0.0;
        if (t % static_cast<std::size_t>(block) == 0 || ids[t] == eos) continue;
        sum -= fake_log_prob(ids[t - 1], ids[t]);
        ++labels;
      }
      BOOST_TEST(result.tokens == labels);
      BOOST_TEST(result.nll == sum / static_cast<double>(labels), boost::test_tools::tolerance(1e-12));
      BOOST_TEST(result.ppl() == std::exp(result.nll));
      const auto means = routers.finish(world(), many.stream),
                 means_alone = routers_alone.finish(*alone, one.stream);
      BOOST_REQUIRE(means.size() == 1U);
      BOOST_TEST(means[0].layer == 1);
      BOOST_TEST(means[0].base_weight == means_alone[0].base_weight);
      BOOST_TEST(std::abs(means[0].base_weight - base / static_cast<double>(ids.size())) < 1e-7);
    }
  }
  const std::vector<std::int32_t> only_eos(10, eos);
  BOOST_CHECK_THROW(measure_perplexity(many.context, only_eos, 5, eos, fake_log_probs, nullptr), Error);
}

BOOST_AUTO_TEST_CASE(continuation_equals_a_plain_loop) {
  TestContext many(world());
  for (const int count : {1, 2, 41}) {
    const auto items = toy_items(count);
    const auto result = measure_continuation(many.context, items, eos, 64, fake_log_probs);
    const auto right = static_cast<double>(std::count_if(items.begin(), items.end(), plain_right));
    BOOST_TEST(result.n == count);
    BOOST_TEST(result.acc == right / count);
    if (count == 41) {
      BOOST_TEST(result.acc > 0.0);
      BOOST_TEST(result.stderr_ == std::sqrt(result.acc * (1 - result.acc) / 40));
    }
  }
  BOOST_TEST(measure_continuation(many.context, toy_items(5), eos, 5, fake_log_probs).n ==
             5);  // context shortened
  BOOST_CHECK_THROW(measure_continuation(many.context, toy_items(5), eos, 3, fake_log_probs), Error);
  BOOST_CHECK_THROW(measure_continuation(many.context, toy_items(5), -1, 64, fake_log_probs), Error);
}

BOOST_AUTO_TEST_CASE(items_file) {
  const SharedDirectory directory("items");
  const std::string path = directory.path() + "/items.jsonl";
  const auto load = [&](const std::string& text, std::int64_t limit) {
    if (world().rank() == 0) std::ofstream(path) << text;
    world().barrier();
    struct AtExit {
      ~AtExit() { world().barrier(); }
    } const wait_for_readers;
    return load_continuation_items(path, limit, 1);
  };
  std::string text;
  for (int i = 0; i < 20; ++i)
    text += "{\"context\": \"c" + std::to_string(i) + "\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n\n";
  BOOST_TEST(load(text, 0).size() == 20U);
  const auto drawn = load(text, 5);
  BOOST_TEST(drawn.size() == 5U);
  BOOST_TEST(std::stoi(drawn[0].context.substr(1)) < std::stoi(drawn[4].context.substr(1)));
  const std::string good = "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n";
  for (const std::string bad :
       {"{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"gold\": 2}",
        "{\"context\": \"c\", \"choices\": [\"a\"], \"gold\": 0}",
        "{\"context\": \"c\", \"choices\": [\"a\", 1], \"gold\": 0}",
        "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"gold\": -1}", "[1]", "{\"context"})
    BOOST_CHECK_EXCEPTION(load(good + bad, 0), Error, [](const Error& e) {
      return e.code() == ErrorCode::bad_data &&
             std::string(e.what()).find("items.jsonl:2") != std::string::npos;
    });
  BOOST_CHECK_THROW(load("", 0), Error);
}

BOOST_AUTO_TEST_CASE(eval_json_layout) {
  EvalResults results;
  results.model = "base";
  results.config = {{"evaluation.block", "128"}};
  results.tasks = {{"perplexity", {{"el", Perplexity{2.0, 100}.scores()}}},
                   {"continuation", {{"el", ContinuationResult{0.5, 0.25, 5}.scores()}}},
                   {"nothing", {}}};
  results.router["el"] = {{3, 0.4}};
  const std::string text = eval_json(results);
  for (const char* part :
       {"\"format\": \"neuronmoe-eval\"", "\"checkpoint\": null", "\"nll\": 2.0", "\"tokens\": 100",
        "\"stderr\": 0.25", "\"nothing\": {}", "\"base_weight\": 0.4", "\"evaluation.block\": \"128\""})
    BOOST_TEST(text.find(part) != std::string::npos, part);
}

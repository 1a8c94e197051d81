// Perplexity, router weights and the continuation task over ranks: equal to plain loops, same bits on 1 to 4
// ranks.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <fstream>
#include <map>

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

std::vector<double> fake_log_probs(const model::Batch& batch, model::ActivationObserver*) {
  std::vector<double> result;
  for (std::int64_t t = 0; t < batch.num_tokens(); ++t) {
    const std::int32_t id = batch.ids.data<std::int32_t>()[t], label = batch.labels.data<std::int32_t>()[t];
    result.push_back(label < 0 ? 0.0 : fake_log_prob(id, label));
  }
  return result;
}

using Ids = std::vector<std::int32_t>;

/// What another model says of a label depends on every token before it.
double fake_score(std::span<const std::int32_t> before, std::int32_t label) {
  double state = 0.0;
  for (const std::int32_t id : before) state = std::fmod(state * 1.37 + 0.61 * id, 7.0);
  return -1.0 - std::abs(std::sin(state - 0.3 * label));
}

/// Layer 1 chooses the base first, second or not at all.
float fake_weight(std::int32_t id) {
  return 0.1F * static_cast<float>(id % 9);
}

LabelScoreFunction fake_label_scores(RouterStatistics& routers) {
  return [&routers](const model::Batch& batch, std::span<const model::LabelAt> labels) {
    const auto* const ids = batch.ids.data<std::int32_t>();
    std::vector<model::LabelScore> scores;
    for (const auto& [token, label] : labels) {
      std::size_t b = 0;
      while (batch.offsets[b + 1] <= token) ++b;
      scores.push_back({fake_score({ids + batch.offsets[b], ids + token + 1}, label), false});
    }
    std::vector<float> weights;
    Ids indices;
    for (std::int64_t t = 0; t < batch.num_tokens(); ++t) {
      weights.insert(weights.end(), {1.0F - fake_weight(ids[t]), fake_weight(ids[t])});
      indices.insert(indices.end(), {ids[t] % 3 == 0 ? 0 : 1, ids[t] % 3 == 1 ? 0 : 2});
    }
    const ConstTensorView w(weights.data(), DType::float32, {batch.num_tokens(), 2});
    routers.observe_router(1, {}, w, ConstTensorView(indices.data(), DType::int32, {batch.num_tokens(), 2}),
                           {});
    return scores;
  };
}

constexpr std::int32_t bos = 4;

/// A token file of `count` documents, every second one in Greek, some of them empty. Collective.
data::TokenFile toy_file(const std::string& path, int count, std::optional<std::int32_t> bos_id) {
  data::TokenDocuments documents;
  for (int d = 0; world().rank() == 0 && d < count; ++d) {
    const int length = d * 7 % 23;
    for (int i = 0; i < length; ++i)
      documents.ids.push_back(static_cast<std::uint32_t>((i * 7 + i / 5 + d) % 31));
    documents.ids.push_back(eos);
    documents.lengths.push_back(static_cast<std::uint64_t>(length) + 1);
    documents.lang.push_back(static_cast<std::uint16_t>(d % 2));
    documents.mark.push_back(0);
    documents.bytes.push_back(static_cast<std::uint64_t>(3 * length));
    documents.words.push_back(static_cast<std::uint64_t>(length) + 1);
  }
  data::write_token_file(world(), path, documents, {31, eos, "tok", "in", {"en", "el"}, bos_id});
  return data::TokenFile(path);
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

BOOST_AUTO_TEST_CASE(held_out_text_of_a_token_file) {
  const SharedDirectory directory("held");
  const data::TokenFile file = toy_file(directory.path() + "/t.h5", 9, bos);
  const auto sizes = data::read_text_sizes(file.path(), file.num_docs());
  const HeldOutText text =
      held_out_text(file, sizes, "el", 0);  // documents 1, 3, 5, 7 of 7, 21, 12, 3 tokens
  BOOST_TEST(text.numbers == (std::vector<std::int64_t>{1, 3, 5, 7}), boost::test_tools::per_element());
  BOOST_TEST((text.documents[3].ids == Ids{bos, 7, 14, 21}));  // no EOS
  BOOST_TEST((text.documents[3].rolling && text.documents[3].num_scored() == 3));
  BOOST_TEST(text.sizes->bytes == (std::vector<std::uint64_t>{21, 63, 36, 9}),
             boost::test_tools::per_element());
  BOOST_TEST(text.sizes->words == (std::vector<std::uint64_t>{8, 22, 13, 4}),
             boost::test_tools::per_element());
  for (const auto& [most, documents] : std::map<std::int64_t, std::size_t>{
           {1, 1}, {7, 1}, {8, 2}, {28, 2}, {29, 3}, {40, 3}, {41, 4}, {100, 4}})
    BOOST_TEST(held_out_text(file, sizes, "el", most).documents.size() == documents);
  BOOST_CHECK_THROW(held_out_text(file, sizes, "fr", 0), Error);
  world().barrier();
  const data::TokenFile empty = toy_file(directory.path() + "/empty.h5", 1, {});
  BOOST_TEST(prefix_of(empty.info()) == eos);
  BOOST_TEST(prefix_of({31, eos, "tok", "in", {"en"}, -1}) == eos);
  BOOST_CHECK_THROW(held_out_text(empty, {}, "en", 0), Error);  // one document without a token
  world().barrier();
}

BOOST_AUTO_TEST_CASE(perplexity_equals_a_plain_loop_and_any_rank_count) {
  const SharedDirectory directory("perplexity");
  const auto alone = comm::make_local_communicator();
  TestContext many(world()), one(*alone);
  const model::ModelConfig config = fake_config({1, 3});
  for (const int count : {2, 9, 601}) {
    const data::TokenFile file = toy_file(directory.path() + "/t.h5", count, bos);
    const HeldOutText text = held_out_text(file, {}, "el", 0);
    for (const std::int64_t block : {1, 5, 64}) {
      RouterStatistics routers(config), routers_alone(config);
      const auto answers =
          measure_log_likelihoods(many.context, text.documents, block, fake_label_scores(routers));
      const auto expected = perplexity_of(text, measure_log_likelihoods(one.context, text.documents, block,
                                                                        fake_label_scores(routers_alone)));
      const Perplexity result = perplexity_of(text, answers);
      BOOST_TEST(result.log_likelihood == expected.log_likelihood);
      const auto means = routers.finish(world(), many.stream),
                 means_alone = routers_alone.finish(*alone, one.stream);
      BOOST_REQUIRE(means.size() == 1U);
      BOOST_TEST(means[0].layer == 1);
      BOOST_TEST(means[0].base_weight == means_alone[0].base_weight);
      if (block != 64) continue;  // then no document is cut
      double sum = 0.0, base = 0.0;
      std::int64_t tokens = 0;
      for (std::int64_t d = 1; d < count; d += 2) {
        Ids ids{bos};
        const auto document = file.document(d);
        for (const std::uint32_t id : document.first(document.size() - 1)) {
          const double w = static_cast<double>(fake_weight(ids.back()));
          base += ids.back() % 3 == 0 ? 1.0 - w : ids.back() % 3 == 1 ? w : 0.0;
          sum += fake_score(ids, static_cast<std::int32_t>(id));
          ids.push_back(static_cast<std::int32_t>(id));
          ++tokens;
        }
      }
      BOOST_TEST(result.tokens == tokens);
      BOOST_TEST(result.documents == count / 2);
      BOOST_TEST(result.nll() == -sum / static_cast<double>(tokens), boost::test_tools::tolerance(1e-12));
      BOOST_TEST(result.ppl() == std::exp(result.nll()));
      BOOST_TEST(std::abs(means[0].base_weight - base / static_cast<double>(tokens)) < 1e-7);
    }
    world().barrier();
  }
}

BOOST_AUTO_TEST_CASE(scores_per_token_word_and_byte) {
  HeldOutText text;
  text.sizes = data::TextSizes{{5, 3}, {2, 14}};
  text.documents.resize(2);
  const std::vector<LogLikelihood> answers = {{-6.0, false, 3}, {-2.0, false, 1}};
  const auto score = [](const Perplexity& perplexity, const std::string& wanted) {
    for (const auto& [name, value] : perplexity.scores())
      if (name == wanted) return value;
    throw std::out_of_range(wanted);
  };
  Perplexity perplexity = perplexity_of(text, answers);
  BOOST_TEST(std::get<double>(score(perplexity, "nll")) == 2.0);  // 8 nats, 4 tokens
  BOOST_TEST(std::get<double>(score(perplexity, "ppl")) == std::exp(2.0));
  BOOST_TEST(std::get<double>(score(perplexity, "word_perplexity")) == std::exp(0.5));  // 16 words
  BOOST_TEST(std::get<double>(score(perplexity, "byte_perplexity")) == std::exp(1.0));  // 8 bytes
  BOOST_TEST(std::get<double>(score(perplexity, "bits_per_byte")) == 1.0 / std::log(2.0));
  BOOST_TEST(std::get<std::int64_t>(score(perplexity, "tokens")) == 4);
  BOOST_TEST(std::get<std::int64_t>(score(perplexity, "words")) == 16);
  BOOST_TEST(std::get<std::int64_t>(score(perplexity, "bytes")) == 8);
  BOOST_TEST(std::get<std::int64_t>(score(perplexity, "documents")) == 2);
  text.sizes.reset();
  perplexity = perplexity_of(text, answers);
  BOOST_TEST(std::get<double>(score(perplexity, "nll")) == 2.0);
  for (const char* name : {"words", "bytes", "word_perplexity", "byte_perplexity", "bits_per_byte"})
    BOOST_TEST(std::holds_alternative<std::nullptr_t>(score(perplexity, name)), name);
}

BOOST_AUTO_TEST_CASE(continuation_equals_a_plain_loop) {
  TestContext many(world());
  for (const int count : {1, 2, 41}) {
    const auto items = toy_items(count);
    const auto result = measure_continuation(many.context, items, eos, 64, fake_log_probs);
    const auto right = static_cast<double>(std::count_if(items.begin(), items.end(), plain_right));
    BOOST_TEST(result.n == count);
    BOOST_REQUIRE(result.items.size() == items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto& found = result.items[i];
      BOOST_TEST(found.scores.size() == 4U);
      BOOST_TEST(found.gold == items[i].gold);
      BOOST_TEST((found.chosen == found.gold) == plain_right(items[i]));
      BOOST_TEST(found.scores[found.chosen] == *std::max_element(found.scores.begin(), found.scores.end()));
    }
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
    return load_continuation_items(path, limit);
  };
  std::string text;
  for (int i = 0; i < 20; ++i)
    text += "{\"context\": \"c" + std::to_string(i) + "\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n\n";
  BOOST_TEST(load(text, 0).size() == 20U);
  const auto first = load(text, 5);
  BOOST_TEST(first.size() == 5U);
  BOOST_TEST(first[0].context == "c0");
  BOOST_TEST(first[4].context == "c4");
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
  results.tasks = {{"perplexity", {{"el", Perplexity{-200.0, 100, 3}.scores()}}},
                   {"continuation", {{"el", ContinuationResult{0.5, 0.25, 5, {}}.scores()}}},
                   {"nothing", {}}};
  results.router["el"] = {{3, 0.4}};
  const std::string text = eval_json(results);
  for (const char* part :
       {"\"format\": \"neuronmoe-eval\"", "\"checkpoint\": null", "\"nll\": 2.0", "\"tokens\": 100",
        "\"documents\": 3", "\"byte_perplexity\": null", "\"stderr\": 0.25", "\"nothing\": {}",
        "\"base_weight\": 0.4", "\"evaluation.block\": \"128\""})
    BOOST_TEST(text.find(part) != std::string::npos, part);
}

BOOST_AUTO_TEST_CASE(lines_beside_eval_json) {
  HeldOutText text;
  text.numbers = {3, 8};
  const std::vector<LogLikelihood> answers = {{-6.5, false, 3}, {0.0, true, 0}};
  BOOST_TEST(
      document_lines("el", text, answers) ==
      R"({"task":"perplexity","set":"el","document":3,"tokens":3,"bytes":null,"words":null,"loglikelihood":-6.5})"
      "\n"
      R"({"task":"perplexity","set":"el","document":8,"tokens":0,"bytes":null,"words":null,"loglikelihood":0.0})"
      "\n");
  text.sizes = data::TextSizes{{12, 0}, {2, 1}};
  BOOST_TEST(document_lines("el", text, answers).find(R"("bytes":12,"words":2)") != std::string::npos);
  const std::vector<ItemResult> items = {{1, 0, {0.5, -2.25}}};
  BOOST_TEST(item_lines("en", items) ==
             R"({"task":"continuation","set":"en","item":0,"gold":1,"chosen":0,"scores":[0.5,-2.25]})"
             "\n");
  BOOST_TEST(items_path("a/eval-stage2.json") == "a/eval-stage2.items.jsonl");
  BOOST_TEST(items_path("a/found") == "a/found.items.jsonl");
}

// Token by token with a cache of keys and values: the logits of whole passes, and the choice of tokens.
#include <cmath>
#include <map>

#include "neuronmoe/evaluation/generation.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "neuronmoe/model/key_value_cache.hpp"
#include "support/golden.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using Ids = std::vector<std::int32_t>;

namespace {

// The same sums over the same keys, taken in other pieces: a few units of 2^-24 in each of a dozen steps.
constexpr double order_bound = 1e-5;

/// Feeds `text` in pieces and compares the logits behind each with the row of a pass over all of it.
void check_pieces(model::Decoder& decoder, const Ids& text, const std::vector<std::size_t>& pieces) {
  model::BatchBuilder builder;
  builder.add(text, {}, {});
  const Tensor whole = decoder.logits(builder.batch());
  const std::int64_t vocab = decoder.config().vocab_size;
  model::KeyValueCache cache(decoder.config(), decoder.dtype(), static_cast<std::int64_t>(text.size()),
                             Device::cpu);
  for (int round = 0; round < 2; ++round) {  // the second one in a cache that had another text
    cache.clear();
    std::size_t at = 0;
    for (const std::size_t length : pieces) {
      const Tensor next = decoder.next_logits(std::span(text).subspan(at, length), cache);
      at += length;
      BOOST_TEST(cache.length() == static_cast<std::int64_t>(at));
      for (std::int64_t v = 0; v < vocab; ++v)
        BOOST_TEST(std::abs(next.data<float>()[v] -
                            whole.data<float>()[(static_cast<std::int64_t>(at) - 1) * vocab + v]) <
                   order_bound);
    }
  }
  BOOST_CHECK_THROW(decoder.next_logits(Ids{1}, cache), Error);  // it is full
  BOOST_TEST(!decoder.next_logits({}, cache).valid());           // another rank's turn
}

std::int32_t pick(const std::vector<float>& logits, double temperature, double top_p, double uniform) {
  return evaluation::pick_token(logits, {temperature, top_p, 0}, uniform);
}

}  // namespace

BOOST_AUTO_TEST_CASE(pieces_give_the_logits_of_the_whole) {
  for (const std::string name : {"llama", "qwen", "qwen3"}) {
    const model::ModelConfig config = model::load_model_config(test::golden_path(name) + "/config.json");
    test::LocalDecoder local(config, DType::float32, model::TrainableSet::none);
    model::load_dense_weights(local.decoder, test::golden_path(name));
    const Ids text = test::golden_reference().at(name).at("ids").get<std::vector<Ids>>().front();
    check_pieces(local.decoder, text, {text.size() / 2, 1, 1, 3, text.size() - text.size() / 2 - 5});
  }
}

BOOST_AUTO_TEST_CASE(pieces_of_a_mixture) {
  test::LocalDecoder local(test::tiny_config({1, 3, 4}), DType::float32, model::TrainableSet::none);
  test::perturb(local.decoder, 5, 0.3);
  check_pieces(local.decoder, {3, 14, 1, 5, 9, 2, 6, 5, 3, 5}, {1, 4, 1, 1, 3});
}

BOOST_AUTO_TEST_CASE(the_choice_of_tokens) {
  const float none = -std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  BOOST_TEST(pick({1, 3, 3, 2}, 0.0, 1.0, 0.99) == 1);  // greedy, the lowest of equal ones
  BOOST_TEST(pick({nan, none, -4}, 0.0, 1.0, 0.0) == 2);
  BOOST_CHECK_THROW(pick({nan, none}, 0.0, 1.0, 0.0), Error);
  // Probabilities 0.5, 0.25, 0.125, 0.125, given in another order.
  const std::vector<float> logits = {std::log(0.125F), std::log(0.5F), std::log(0.125F), std::log(0.25F)};
  const std::map<double, std::int32_t> all = {{0.0, 1},  {0.49, 1}, {0.51, 3},  {0.74, 3},
                                              {0.76, 0}, {0.88, 2}, {0.9999, 2}};
  for (const auto& [uniform, token] : all) BOOST_TEST(pick(logits, 1.0, 1.0, uniform) == token);
  // 0.7 needs the first two, which have 2/3 and 1/3 of what is kept.
  for (const auto& [uniform, token] : std::map<double, std::int32_t>{{0.66, 1}, {0.67, 3}, {0.9999, 3}})
    BOOST_TEST(pick(logits, 1.0, 0.7, uniform) == token);
  BOOST_TEST(pick(logits, 1.0, 0.5, 0.9999) == 1);
  // At temperature 0.5 probabilities are squared: 16, 4, 1, 1 of 22.
  for (const auto& [uniform, token] :
       std::map<double, std::int32_t>{{0.72, 1}, {0.73, 3}, {0.90, 3}, {0.92, 0}})
    BOOST_TEST(pick(logits, 0.5, 1.0, uniform) == token);
  BOOST_TEST(pick({none, 0, nan}, 1.0, 1.0, 0.9999) == 1);
}

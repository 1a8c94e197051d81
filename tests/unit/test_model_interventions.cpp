// Replaced neurons (METHOD 1.9) in the decoder: against a plain forward pass, against PyTorch's forward
// hooks, and shared passes against passes of their own, bit by bit.
#include <map>

#include "neuronmoe/model/hf_model.hpp"
#include "neuronmoe/model/key_value_cache.hpp"
#include "support/golden.hpp"
#include "support/naive_forward.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using model::Intervention;
using model::LabelAt;
using model::LabelScore;
using model::Projection;
using model::ReplacedNeuron;
using Ids = std::vector<std::int32_t>;
using Neurons = std::vector<ReplacedNeuron>;

namespace {

// float64 on both sides, sums of a dozen terms in another order.
constexpr double float64_bound = 1e-12;
// As in test_model_label_scores: float32 logits of size 1 against float64.
constexpr double golden_bound = 2e-5;

/// Sets that begin in layer 0, in the middle, in the last layer, and nowhere; every projection occurs.
std::vector<Neurons> toy_sets(int num_layers) {
  const int last = num_layers - 1;
  return {{},
          {{0, Projection::q, 5, 0.7F}, {0, Projection::k, 3, -1.5F}, {last, Projection::up, 11, 0.0F}},
          {{1, Projection::v, 0, 0.25F}, {1, Projection::gate, 2, 3.0F}, {1, Projection::gate, 7, 0.0F}},
          {{last, Projection::down, 6, -0.5F}, {last, Projection::o, 1, 0.0F}},
          {{0, Projection::down, 7, 2.0F}},
          {{last, Projection::down, 0, 0.0F}}};
}

test::Touch touch_of(const Neurons& neurons) {
  return [&neurons](int layer, Projection projection, test::Rows& outputs) {
    for (const ReplacedNeuron& neuron : neurons)
      if (neuron.layer == layer && neuron.projection == projection)
        for (auto& row : outputs) row[static_cast<std::size_t>(neuron.unit)] = neuron.value;
  };
}

std::vector<Intervention> interventions_of(const model::Decoder& decoder, const std::vector<Neurons>& sets) {
  std::vector<Intervention> interventions;
  for (const Neurons& set : sets)
    interventions.emplace_back(decoder.config(), decoder.dtype(), set, decoder.stream());
  return interventions;
}

/// The next token of every one but the last of each sequence.
std::vector<LabelAt> next_tokens(const model::Batch& batch) {
  std::vector<LabelAt> labels;
  for (std::size_t b = 0; b + 1 < batch.offsets.size(); ++b)
    for (std::int64_t t = batch.offsets[b]; t + 1 < batch.offsets[b + 1]; ++t)
      labels.push_back({static_cast<std::int32_t>(t), batch.ids.data<std::int32_t>()[t + 1]});
  return labels;
}

bool same(const std::vector<LabelScore>& a, const std::vector<LabelScore>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const LabelScore& x, const LabelScore& y) {
    return x.log_prob == y.log_prob && x.greedy == y.greedy;
  });
}

/// Shared passes have the bits of passes of their own, whatever stands in which order.
void check_shared(model::Decoder& decoder, const std::vector<Neurons>& sets) {
  const model::BatchBuilder builder = test::random_batch({5, 9, 1, 30}, decoder.config().vocab_size, 3);
  const model::Batch batch = builder.batch();
  const std::vector<LabelAt> labels = next_tokens(batch);
  const std::vector<Intervention> interventions = interventions_of(decoder, sets);
  const auto found = decoder.label_scores_of_each(batch, labels, interventions);
  BOOST_REQUIRE(found.size() == 1 + sets.size());
  BOOST_TEST(same(found[0], decoder.label_scores(batch, labels)));
  for (std::size_t i = 0; i < sets.size(); ++i) {
    decoder.set_intervention(&interventions[i]);
    BOOST_CHECK_MESSAGE(same(found[i + 1], decoder.label_scores(batch, labels)), "set " << i);
    decoder.set_intervention(nullptr);
    BOOST_CHECK_MESSAGE(same(found[i + 1], found[0]) == sets[i].empty(), "set " << i);
  }
  // No work: a rank that only takes part.
  const auto none = decoder.label_scores_of_each(model::BatchBuilder().batch(), {}, interventions);
  BOOST_TEST(none.size() == 1 + sets.size());
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_plain_forward_pass) {
  test::LocalDecoder local(test::tiny_config({1, 1, 1}), DType::float64, model::TrainableSet::none);
  test::perturb(local.decoder, 5, 0.3);
  const Ids ids = {3, 14, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 18};
  model::BatchBuilder builder;
  builder.add(ids, {}, {});
  std::vector<LabelAt> labels;
  for (std::int32_t t = 0; t < std::ssize(ids); ++t)
    for (std::int32_t v = 0; v < 19; ++v) labels.push_back({t, v});
  const std::vector<Neurons> sets = toy_sets(3);
  const auto found =
      local.decoder.label_scores_of_each(builder.batch(), labels, interventions_of(local.decoder, sets));
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Neurons& set = i == 0 ? sets.front() : sets[i - 1];
    const test::Rows expected = test::NaiveForward(local.decoder, touch_of(set)).log_probs(ids);
    double worst = 0.0;
    for (std::size_t n = 0; n < labels.size(); ++n)
      worst = std::max(worst, std::abs(found[i][n].log_prob - expected[n / 19][n % 19]));
    BOOST_CHECK_MESSAGE(worst < float64_bound, "set " << i << " is off by " << worst);
  }
}

BOOST_AUTO_TEST_CASE(forward_hooks_of_pytorch) {
  const nlohmann::json golden = io::read_json(test::golden_path("interventions.json"));
  const std::map<std::string, Projection> names = {
      {"mlp.down_proj", Projection::down}, {"mlp.gate_proj", Projection::gate},
      {"mlp.up_proj", Projection::up},     {"self_attn.k_proj", Projection::k},
      {"self_attn.o_proj", Projection::o}, {"self_attn.q_proj", Projection::q},
      {"self_attn.v_proj", Projection::v}};
  for (const std::string name : {"llama", "qwen", "mistral", "qwen3"}) {
    const model::ModelConfig config = model::load_model_config(test::golden_path(name) + "/config.json");
    test::LocalDecoder local(config, DType::float32, model::TrainableSet::none);
    model::load_dense_weights(local.decoder, test::golden_path(name));
    model::BatchBuilder builder;
    for (const auto& row : test::golden_reference().at(name).at("ids").get<std::vector<Ids>>())
      builder.add(row, {}, {});
    const model::Batch batch = builder.batch();
    std::vector<Neurons> sets;
    for (const auto& one : golden.at("models").at(name)) {
      Neurons& set = sets.emplace_back();
      for (const auto& neuron : one.at("neurons"))
        set.push_back({neuron[0].get<int>(), names.at(neuron[1].get<std::string>()),
                       neuron[2].get<std::int32_t>(), neuron[3].get<float>()});
    }
    BOOST_REQUIRE(sets.size() >= 4);
    const auto found =
        local.decoder.label_scores_of_each(batch, next_tokens(batch), interventions_of(local.decoder, sets));
    for (std::size_t i = 0; i < sets.size(); ++i) {
      const auto expected = golden.at("models").at(name)[i].at("log_probs").get<std::vector<double>>();
      BOOST_REQUIRE(found[i + 1].size() == expected.size());
      double worst = 0.0, effect = 0.0;
      for (std::size_t n = 0; n < expected.size(); ++n) {
        worst = std::max(worst, std::abs(found[i + 1][n].log_prob - expected[n]));
        effect = std::max(effect, std::abs(found[0][n].log_prob - expected[n]));
      }
      BOOST_CHECK_MESSAGE(worst < golden_bound, name << " set " << i << " is off by " << worst);
      BOOST_CHECK_MESSAGE(effect > 1e-3, name << " set " << i << " changes " << effect);
    }
  }
}

BOOST_AUTO_TEST_CASE(shared_passes_have_the_bits_of_their_own) {
  for (const std::vector<int>& experts : {std::vector<int>{1, 1, 1}, std::vector<int>{3, 1, 2}}) {
    test::LocalDecoder local(test::tiny_config(experts), DType::float32, model::TrainableSet::none);
    test::perturb(local.decoder, 6, 0.3);
    check_shared(local.decoder, toy_sets(3));
  }
}

/// In a layer with experts the base expert has the MLP's neurons; observers see what is used.
BOOST_AUTO_TEST_CASE(experts_keep_their_outputs) {
  struct Seen : model::ActivationObserver {
    bool wants(const model::ActivationSite& site) const override { return site.layer == 0; }
    void observe(const model::ActivationSite& site, ConstTensorView values, ConstTensorView) override {
      if (site.projection == Projection::mlp_input) return;
      const auto width = static_cast<std::size_t>(values.dim(1));
      for (std::size_t i = 2; i < static_cast<std::size_t>(values.num_elements()); i += width)
        (site.expert <= 0 ? replaced : kept).push_back(values.data<float>()[i]);
    }
    std::vector<float> replaced, kept;
  } seen;
  test::LocalDecoder local(test::tiny_config({3, 1}), DType::float32, model::TrainableSet::none);
  test::perturb(local.decoder, 7, 0.3);
  Neurons set;
  for (const Projection projection : {Projection::down, Projection::gate, Projection::up, Projection::k,
                                      Projection::o, Projection::q, Projection::v})
    set.push_back({0, projection, 2, 0.625F});
  const Intervention one(local.decoder.config(), DType::float32, set, local.stream);
  const model::BatchBuilder builder = test::random_batch({9, 30}, 19, 3);
  local.decoder.set_intervention(&one);
  local.decoder.observe(builder.batch(), seen);
  BOOST_TEST((seen.replaced.size() > 4 * 39 && seen.kept.size() > 9));
  BOOST_TEST(std::count(seen.replaced.begin(), seen.replaced.end(), 0.625F) == std::ssize(seen.replaced));
  BOOST_TEST(std::count(seen.kept.begin(), seen.kept.end(), 0.625F) == 0);
}

BOOST_AUTO_TEST_CASE(token_by_token_with_a_cache) {
  test::LocalDecoder local(test::tiny_config({1, 2, 1}), DType::float32, model::TrainableSet::none);
  test::perturb(local.decoder, 8, 0.3);
  const Ids ids = {3, 14, 1, 5, 9, 2};
  model::BatchBuilder builder;
  builder.add(ids, {}, {});
  for (const Neurons& set : toy_sets(3)) {
    const Intervention one(local.decoder.config(), DType::float32, set, local.stream);
    local.decoder.set_intervention(&one);
    const Tensor whole = local.decoder.logits(builder.batch());
    model::KeyValueCache cache(local.decoder.config(), DType::float32, 6, Device::cpu);
    for (std::size_t t = 0; t < ids.size(); ++t) {
      const Tensor next = local.decoder.next_logits(std::span(ids).subspan(t, 1), cache);
      for (std::size_t v = 0; v < 19; ++v)
        BOOST_TEST(std::abs(next.data<float>()[v] - whole.data<float>()[t * 19 + v]) < 1e-5);
    }
  }
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused) {
  test::LocalDecoder local(test::tiny_config({1, 1}), DType::float32, model::TrainableSet::all);
  const auto make = [&](const Neurons& set) {
    return Intervention(local.decoder.config(), DType::float32, set, local.stream);
  };
  BOOST_TEST(make({}).first_layer() == 2);
  BOOST_TEST(make({{1, Projection::gate, 11, 0.0F}}).first_layer() == 1);
  for (const ReplacedNeuron& bad :
       {ReplacedNeuron{2, Projection::q, 0, 0.0F}, ReplacedNeuron{-1, Projection::q, 0, 0.0F},
        ReplacedNeuron{0, Projection::gate, 12, 0.0F}, ReplacedNeuron{0, Projection::k, 8, 0.0F},
        ReplacedNeuron{0, Projection::down, -1, 0.0F}, ReplacedNeuron{0, Projection::mlp_input, 0, 0.0F}})
    BOOST_CHECK_THROW(make({bad}), Error);
  const ReplacedNeuron twice{0, Projection::q, 1, 0.0F};
  BOOST_CHECK_THROW(make({twice, twice}), Error);
  const std::vector<Intervention> ones = interventions_of(local.decoder, {{twice}});
  const model::BatchBuilder builder = test::random_batch({5}, 19, 3);
  local.decoder.set_intervention(&ones.front());
  BOOST_CHECK_THROW(local.decoder.forward_backward(builder.batch(), {}), Error);
  BOOST_CHECK_THROW(local.decoder.label_scores_of_each(builder.batch(), {}, ones), Error);
}

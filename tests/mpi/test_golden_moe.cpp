// One step of the mixture of experts against plain PyTorch (METHOD 5-6): logits, every loss, every gradient;
// the experts on one rank and spread over several.
#include "neuronmoe/train/parallel_groups.hpp"
#include "support/golden.hpp"
#include "support/mpi_fixture.hpp"

using namespace nmoe;
using model::TrainableSet;

namespace {

constexpr double float32_bound = 1e-5;  // as in test_golden_models.cpp

TrainableSet trainable_set(const std::string& name) {
  return name == "all"       ? TrainableSet::all
         : name == "routers" ? TrainableSet::routers
                             : TrainableSet::experts_and_routers;
}

/// Losses and gradients of a golden case; the batch is on the last rank of each expert-parallel group, the
/// others join with zero rows.
void check_case(const nlohmann::json& moe, const std::string& name, int expert_parallel_size) {
  const nlohmann::json& expected = moe.at("step").at("cases").at(name);
  BOOST_TEST_CONTEXT(name << ", expert_parallel_size " << expert_parallel_size) {
    const train::ParallelGroups groups(test::world(), expert_parallel_size);
    model::ModelConfig config = model::load_model_config(test::golden_path("moe/config.json"));
    config.num_experts = expected.at("num_experts").get<std::vector<int>>();
    config.top_k = expected.at("top_k");
    Stream stream;
    model::Decoder decoder(config, DType::float32, trainable_set(expected.at("trainable")),
                           groups.experts(config.num_experts), stream);
    test::load_weights(decoder, "moe/model.safetensors");
    const int holder = groups.expert_parallel->size() - 1;
    const bool mine = groups.expert_parallel->rank() == holder;
    const model::BatchBuilder full = test::golden_batch(moe.at("step"), expected.at("old_sequences")), none;
    const model::Batch batch = (mine ? full : none).batch();

    const io::SafetensorsReader file(test::golden_path("moe/" + name + ".safetensors"));
    const Tensor logits = decoder.logits(batch);
    if (mine && file.contains("logits")) {
      BOOST_TEST(test::norm_error(test::wide(logits.view()), test::golden_tensor(file, "logits")) <
                 float32_bound);
    }
    model::LossScales scales;
    const auto& labels = batch.labels;
    std::int64_t num_labels = 0;
    for (std::int64_t t = 0; t < batch.num_tokens(); ++t)
      num_labels += labels.data<std::int32_t>()[t] >= 0 ? 1 : 0;
    scales.lm = num_labels > 0 ? 1.0 / static_cast<double>(num_labels) : 0.0;
    scales.balancing = expected.at("balancing_scale");
    scales.lpr = expected.at("lpr_scale");
    scales.lpr_form = expected.at("lpr_form") == "nll" ? ops::LprForm::nll : ops::LprForm::double_softmax;
    scales.lpr_by_expert_count = expected.at("lpr_layer_mean") == "by_expert_count";
    decoder.zero_gradients();
    const model::Losses losses = decoder.forward_backward(batch, scales);
    if (mine) {
      BOOST_TEST(test::relative(losses.lm_sum, expected.at("lm_sum")) < float32_bound);
      BOOST_TEST(std::abs(losses.balancing - expected.at("balancing").get<double>()) < float32_bound);
      BOOST_TEST(std::abs(losses.lpr - expected.at("lpr").get<double>()) < float32_bound);
    }
    std::size_t checked = 0;
    for (const model::Parameter& p : decoder.parameters()) {
      if (!p.grad) continue;
      const bool expert = p.is_new_expert();
      if (!expert && !mine) continue;  // the rank of the batch has their only leaf
      const ConstTensorView leaf = p.grad.rows(expert ? holder : 0, 1);
      const double error = test::norm_error(test::wide(leaf), test::golden_tensor(file, "grad." + p.name));
      BOOST_CHECK_MESSAGE(error < float32_bound, "gradient of " << p.name << " is off by " << error);
      ++checked;
    }
    if (mine && groups.expert_parallel->size() == 1) {
      BOOST_TEST(checked + (file.contains("logits") ? 1 : 0) == file.names().size());
    }
    groups.expert_parallel->barrier();
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(losses_and_gradients_of_every_form,
                     *boost::unit_test::label("trap_05") *
                         boost::unit_test::label("complaint_auxiliary_gradient_scale")) {
  const nlohmann::json moe = test::golden_reference().at("moe");
  for (int ep = 1; ep <= test::world().size(); ++ep) {
    if (test::world().size() % ep != 0) continue;
    for (const auto& [name, ignored] : moe.at("step").at("cases").items()) check_case(moe, name, ep);
  }
}

// METHOD 6.2: with as many choices as experts every layer's loss is the constant E (2 for two experts, 0.10),
// so the router's gradient is that of the language-model loss alone.
BOOST_AUTO_TEST_CASE(balancing_two_experts_is_the_constant_2, *boost::unit_test::label("trap_05")) {
  const nlohmann::json cases = test::golden_reference().at("moe").at("step").at("cases");
  BOOST_TEST(cases.at("two_experts").at("balancing").get<double>() == 2.0);
  BOOST_TEST(std::abs(cases.at("all_experts").at("balancing").get<double>() - 8.0 / 3) < 1e-12);
}

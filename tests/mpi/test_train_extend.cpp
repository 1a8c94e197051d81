// A mixture that gets more experts (METHOD 4.3): what it starts from, that its old experts stay as they are,
// and the same bytes on every layout and after a resume.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <map>

#include "neuronmoe/base/hash.hpp"
#include "neuronmoe/base/philox.hpp"
#include "support/temp_dir.hpp"
#include "support/training_run.hpp"

using namespace nmoe;
using test::digest;
using test::run_training;
using test::step_dir;

namespace {

/// Layer 0 keeps its experts, layer 1 gets its first one, layer 2 one more.
const std::vector<int> old_experts = {3, 1, 2}, new_experts = {3, 2, 3};

test::TrainingOptions extended(const std::string& from, const std::string& output) {
  return {.output = output, .num_experts = new_experts, .extend_from = from, .num_old_experts = old_experts};
}

/// Weights of a checkpoint by name, read on this rank.
std::map<std::string, std::vector<float>> weights_of(const std::string& step,
                                                     const std::vector<int>& num_experts) {
  test::LocalDecoder loaded(
      [&] {
        model::ModelConfig config = test::tiny_config({1, 1, 1});
        config = model::apply_checkpoint_config(config, step);
        BOOST_REQUIRE(config.num_experts == num_experts);
        return config;
      }(),
      DType::float32, model::TrainableSet::none);
  model::load_checkpoint_weights(loaded.decoder, step);
  std::map<std::string, std::vector<float>> weights;
  for (const model::Parameter& p : loaded.decoder.parameters()) {
    const float* first = p.value.data<float>();
    if (!p.is_dense()) weights[p.name].assign(first, first + p.shape.num_elements());
  }
  return weights;
}

/// Element of a router as METHOD 5 draws it: std sqrt(2 / (D + E)).
float drawn(const model::Parameter& router, std::int64_t element, std::uint64_t seed) {
  const Philox random(seed, RandomPurpose::parameter_init, fnv1a(router.name));
  const double std = std::sqrt(2.0 / static_cast<double>(router.shape[0] + router.shape[1]));
  return static_cast<float>(std * random.normal(static_cast<std::uint64_t>(element)));
}

/// The run that is extended, of 3 steps, made by rank 0 alone. Returns its last step directory.
std::string first_run(const std::string& directory, const std::string& tokens) {
  comm::Communicator& world = test::world();
  const std::unique_ptr<comm::Communicator> alone = world.split(world.rank(), 0);
  const std::string output = directory + "/first";
  comm::agree(world, [&] {
    if (world.rank() == 0)
      run_training(*alone, tokens, {.output = output, .steps = 3, .num_experts = old_experts});
  });
  alone->close();
  return step_dir(output, 3);
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_an_extended_mixture_starts_from) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("extend");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::string first = first_run(shared.path(), tokens);
  const auto old = weights_of(first, old_experts);
  model::ModelConfig config = test::tiny_config(new_experts);
  config.num_old_experts = old_experts;
  for (const model::ExtendRouter routers : {model::ExtendRouter::redraw, model::ExtendRouter::keep}) {
    test::LocalDecoder local(config, DType::float32, model::TrainableSet::experts_and_routers, 4);
    model::Decoder& decoder = local.decoder;
    model::load_old_experts(decoder, first, routers);
    for (const model::Parameter& p : decoder.parameters()) {
      if (p.is_dense()) continue;
      const auto layer = static_cast<std::size_t>(p.layer);
      const float* found = p.value.data<float>();
      const float* base = p.is_router() ? nullptr : decoder.parameter(p.role, p.layer).value.data<float>();
      const bool is_old = !p.is_router() && p.expert < old_experts[layer];
      const bool keeps = p.is_router() && routers == model::ExtendRouter::keep && old_experts[layer] > 1;
      std::int64_t different = 0;
      for (std::int64_t i = 0; i < p.shape.num_elements(); ++i) {
        const bool stored = is_old || (keeps && i < old_experts[layer] * p.shape[1]);
        const float expected = stored          ? old.at(p.name)[static_cast<std::size_t>(i)]
                               : p.is_router() ? drawn(p, i, 4)
                                               : base[i];
        different += found[i] == expected ? 0 : 1;
      }
      BOOST_TEST(different == 0, name_of(routers) << ": " << p.name << " differs in " << different);
      BOOST_TEST(p.trainable == !is_old, p.name);
    }
  }
  world.barrier();
}

BOOST_AUTO_TEST_CASE(old_experts_stay_and_every_layout_gives_the_same_bytes) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("extend");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::string first = first_run(shared.path(), tokens), alone_dir = shared.path() + "/alone";
  const std::unique_ptr<comm::Communicator> alone = world.split(world.rank(), 0);
  comm::agree(world, [&] {
    if (world.rank() == 0) run_training(*alone, tokens, extended(first, alone_dir));
  });
  alone->close();
  const auto before = weights_of(first, old_experts), after = weights_of(step_dir(alone_dir, 6), new_experts);
  for (const auto& [name, values] : after) {
    const auto old = before.find(name);
    if (name.find("router") != std::string::npos) continue;
    BOOST_TEST((old == before.end() || old->second == values), name << " was frozen");
  }
  const auto between = weights_of(step_dir(alone_dir, 3), new_experts);
  for (const char* name : {"model.layers.1.mlp.experts.1.up_proj.weight",
                           "model.layers.2.mlp.experts.2.up_proj.weight", "model.layers.0.mlp.router.weight"})
    BOOST_TEST((between.at(name) != after.at(name)), name << " trains");
  auto facts = io::read_manifest_facts(step_dir(alone_dir, 6));
  BOOST_TEST(facts["init_from"] == first);
  BOOST_TEST(facts["init_from_sha256"] == sha256_file(first + "/manifest.json"));
  BOOST_TEST(facts["num_old_experts"] == "3,1,2");
  for (int ep = 1; ep <= world.size(); ++ep) {
    if (world.size() % ep != 0 || (ep == 1 && world.size() > 1))
      continue;  // 1 is the other half's of the last
    test::TrainingOptions options = extended(first, fmt::format("{}/ep{}", shared.path(), ep));
    options.expert_parallel_size = ep;
    run_training(world, tokens, options);
    world.barrier();
    if (world.rank() == 0) std::filesystem::remove_all(step_dir(options.output, 6));
    world.barrier();
    options.expert_parallel_size = world.size() / ep;  // the second half on another layout
    run_training(world, tokens, options);
    world.barrier();
    for (const std::int64_t step : {3, 6})
      BOOST_CHECK_EQUAL(digest(step_dir(options.output, step)), digest(step_dir(alone_dir, step)));
  }
  world.barrier();
}

BOOST_AUTO_TEST_CASE(a_resume_asks_for_the_same_origin) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("extend");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::string first = first_run(shared.path(), tokens), output = shared.path() + "/run";
  test::TrainingOptions options = extended(first, output);
  options.steps = 3;
  run_training(world, tokens, options);
  world.barrier();
  options.steps = 6;
  options.num_old_experts = {2, 1, 2};
  options.extend_from = "";
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {first, "train.init_from"},
                                [&] { run_training(world, tokens, options); }) == "");
  options.num_old_experts = {};
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"3,1,2", "none"},
                                [&] { run_training(world, tokens, options); }) == "");
  world.barrier();
}

BOOST_AUTO_TEST_CASE(stage_2_trains_the_routers_of_all_experts) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("extend");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::string first = first_run(shared.path(), tokens), output = shared.path() + "/second";
  test::TrainingOptions options = extended(first, output);
  options.kind = train::RunKind::stage2;
  options.expert_parallel_size = world.size();
  options.steps = 3;
  run_training(world, tokens, options);
  world.barrier();
  model::ModelConfig config = test::tiny_config(new_experts);
  config.num_old_experts = old_experts;
  test::LocalDecoder start(config, DType::float32, model::TrainableSet::none, 4);
  model::load_old_experts(start.decoder, first, model::ExtendRouter::redraw);
  const auto after = weights_of(step_dir(output, 3), new_experts);
  for (const model::Parameter& p : start.decoder.parameters()) {
    if (p.is_dense()) continue;
    const float* values = p.value.data<float>();
    const bool same = after.at(p.name) == std::vector<float>(values, values + p.shape.num_elements());
    BOOST_TEST(same != p.is_router(), p.name);
  }
  world.barrier();
}

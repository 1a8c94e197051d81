// Traps of distributed mixture-of-experts training that have no better home among the tests (docs/traps.md
// lists all of them with the tests that watch them).
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "support/engine.hpp"
#include "support/mpi_fixture.hpp"

using namespace nmoe;
using model::TrainableSet;

namespace {

/// Runs `options` on every layout of these ranks and demands the bits of one rank alone.
void check_layouts(test::EngineOptions options) {
  auto alone = comm::make_local_communicator();
  const test::EngineResult expected = test::run_engine(*alone, options);
  comm::Communicator& world = test::world();
  for (int ep = 1; ep <= world.size(); ++ep) {
    if (world.size() % ep != 0) continue;
    options.expert_parallel_size = ep;
    const test::EngineResult found = test::run_engine(world, options);
    BOOST_TEST(found.losses == expected.losses, boost::test_tools::per_element());
    BOOST_TEST(found.norms == expected.norms, boost::test_tools::per_element());
    for (std::size_t i = 0; i < found.parameters.size(); ++i)
      BOOST_CHECK(found.parameters[i].empty() || found.parameters[i] == expected.parameters[i]);
  }
}

}  // namespace

// Routers of zeros tie every logit, and ties go to the lower id: with top-2 all tokens visit the base and
// expert 1, none the others, in every layer. Ranks that own only the others compute and send zero rows.
BOOST_AUTO_TEST_CASE(trap_16_all_tokens_to_one_expert_none_to_the_others,
                     *boost::unit_test::label("trap_16") *
                         boost::unit_test::label("complaint_hang_without_tokens")) {
  check_layouts({.num_experts = {6, 1, 4},
                 .trainable = TrainableSet::experts_and_routers,
                 .prepare =
                     [](model::Decoder& decoder) {
                       for (model::Parameter& p : decoder.parameters()) {
                         if (p.is_router()) p.value.zero();
                       }
                     },
                 .scales = {.lm = 0.02, .balancing = 0.01}});
}

// One rank's weights give a NaN gradient: every rank must see it, or some would update and others not.
BOOST_AUTO_TEST_CASE(trap_17_a_nan_of_one_rank_is_everybodys, *boost::unit_test::label("trap_17")) {
  comm::Communicator& world = test::world();
  const int sick = world.size() - 1;
  const test::EngineResult result =
      test::run_engine(world, {.num_experts = {3, 1},
                               .trainable = TrainableSet::experts_and_routers,
                               .num_micro_batches = world.size(),
                               .num_steps = 1,
                               .prepare =
                                   [&](model::Decoder& decoder) {
                                     if (world.rank() == sick)
                                       decoder.parameter("model.norm.weight").value.data<float>()[0] =
                                           std::numeric_limits<float>::quiet_NaN();
                                   },
                               .scales = {.lm = 0.02}});
  BOOST_TEST(std::isnan(result.norms.front()));
  BOOST_TEST(comm::all_reduce_sum(world, std::int64_t{std::isnan(result.norms.front())}) == world.size());
}

// The gradient of an expert is the sum over all tokens of the global batch divided by their global number,
// whether the expert is owned by one rank of a group, by the only group, or held by all: never by the
// replicas' number.
BOOST_AUTO_TEST_CASE(trap_01_one_scale_for_every_gradient,
                     *boost::unit_test::label("trap_01") *
                         boost::unit_test::label("complaint_expert_gradient_scale")) {
  test::EngineOptions options{.num_experts = {5, 2},
                              .trainable = TrainableSet::experts_and_routers,
                              .num_micro_batches = 4,
                              .num_steps = 1,
                              .scales = {.lm = 0.02}};
  auto alone = comm::make_local_communicator();
  const double expected = test::run_engine(*alone, options).norms.front();
  comm::Communicator& world = test::world();
  for (int ep = 1; ep <= world.size(); ++ep) {
    if (world.size() % ep != 0) continue;
    for (const model::ExpertHome home :
         {model::ExpertHome::owned, model::ExpertHome::automatic, model::ExpertHome::replicated}) {
      options.expert_parallel_size = ep;
      options.home = home;
      BOOST_TEST(test::run_engine(world, options).norms.front() == expected);
    }
  }
}

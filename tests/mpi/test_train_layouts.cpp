// Losses, gradient norms and trained parameters have the same bits on every layout (DESIGN 6).
#include <boost/test/unit_test.hpp>

#include "support/engine.hpp"
#include "support/mpi_fixture.hpp"

using namespace nmoe;
using model::TrainableSet;

namespace {

void check_equal(const test::EngineResult& found, const test::EngineResult& expected,
                 const std::string& what) {
  BOOST_CHECK_MESSAGE(found.losses == expected.losses, what << ": losses differ");
  BOOST_CHECK_MESSAGE(found.norms == expected.norms, what << ": gradient norms differ");
  BOOST_REQUIRE_EQUAL(found.parameters.size(), expected.parameters.size());
  for (std::size_t i = 0; i < found.parameters.size(); ++i) {
    if (found.parameters[i].empty()) continue;  // an expert that another rank holds
    BOOST_CHECK_MESSAGE(found.parameters[i] == expected.parameters[i],
                        what << ": parameter " << i << " differs");
  }
}

void check_all_layouts(test::EngineOptions options) {
  auto alone = comm::make_local_communicator();
  options.expert_parallel_size = 1;
  const test::EngineResult expected = test::run_engine(*alone, options);
  BOOST_CHECK_GT(expected.norms.front(), 0.0);
  comm::Communicator& world = test::world();
  for (int ep = 1; ep <= world.size(); ++ep) {
    if (world.size() % ep != 0) continue;
    for (const std::int64_t bucket_bytes : {std::int64_t{1} << 20, std::int64_t{600}}) {
      options.expert_parallel_size = ep;
      options.bucket_bytes = bucket_bytes;
      const test::EngineResult found = test::run_engine(world, options);
      check_equal(found, expected,
                  fmt::format("{} ranks, expert_parallel_size {}, buckets of {} bytes", world.size(), ep,
                              bucket_bytes));
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(stage_1) {
  check_all_layouts({.num_experts = {6, 2, 1, 1, 4},
                     .trainable = TrainableSet::experts_and_routers,
                     .scales = {.lm = 0.02, .balancing = 0.01}});
}

BOOST_AUTO_TEST_CASE(stage_2) {
  check_all_layouts(
      {.num_experts = {3, 1, 2}, .trainable = TrainableSet::routers, .scales = {.lm = 0.02, .lpr = 0.1}});
}

BOOST_AUTO_TEST_CASE(pretrain) {
  check_all_layouts({.num_experts = {1, 1}, .trainable = TrainableSet::all, .scales = {.lm = 0.02}});
}

BOOST_AUTO_TEST_CASE(fewer_micro_batches_than_ranks) {
  check_all_layouts({.num_experts = {3, 1},
                     .trainable = TrainableSet::experts_and_routers,
                     .num_micro_batches = 1,
                     .scales = {.lm = 0.02, .balancing = 0.01}});
}

BOOST_AUTO_TEST_CASE(more_ranks_than_experts) {
  check_all_layouts({.num_experts = {2},
                     .trainable = TrainableSet::experts_and_routers,
                     .scales = {.lm = 0.02, .balancing = 0.01}});
}

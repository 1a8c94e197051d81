// Losses, gradient norms and trained parameters have the same bits on every layout (DESIGN 6).
#include <algorithm>
#include <boost/test/unit_test.hpp>

#include "neuronmoe/base/sha256.hpp"
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

/// SHA-256 of all parameters in name order, whoever holds them. Collective over the world.
std::string digest_of(comm::Communicator& world, const test::EngineResult& result) {
  Sha256 hash;
  for (const std::vector<float>& mine : result.parameters) {
    const std::string text(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(float));
    const std::vector<std::string> held = comm::all_gather_strings(world, text);
    const auto first =
        std::find_if(held.begin(), held.end(), [](const std::string& t) { return !t.empty(); });
    BOOST_REQUIRE(first != held.end());
    for (const std::string& t : held) BOOST_CHECK(t.empty() || t == *first);  // replicas agree
    hash.update(first->data(), first->size());
  }
  return hash.hex();
}

/// Every layout of these ranks, bucket size, overlap, sharding and way to exchange within a node gives the
/// bits expected.
void check_layouts_give(const test::EngineResult& expected, const std::string& expected_digest,
                        test::EngineOptions options) {
  comm::MpiOptions mpi;
  mpi.in_place_bytes = 1;
  mpi.on_node = comm::OnNode::shared;
  const auto shared = test::make_world(mpi);
  const DType wire = options.reduce.wire_dtype;
  const bool once = options.reduce.once_per_step;
  const train::ReduceOptions variants[] = {
      {1 << 20, true, true, wire, once},   {600, true, true, wire, once},   {600, false, true, wire, once},
      {1 << 20, false, false, wire, once}, {5000, true, false, wire, once}, {5000, true, true, wire, once}};
  for (int ep = 1; ep <= shared->size(); ++ep) {
    if (shared->size() % ep != 0) continue;
    for (const train::ReduceOptions& reduce : variants) {
      options.expert_parallel_size = ep;
      options.reduce = reduce;
      options.home = reduce.bucket_bytes == 5000  ? model::ExpertHome::replicated
                     : reduce.bucket_bytes == 600 ? model::ExpertHome::automatic
                                                  : model::ExpertHome::owned;
      for (comm::Communicator* world : {&test::world(), shared.get()}) {
        const test::EngineResult found = test::run_engine(*world, options);
        const std::string layout = fmt::format(
            "{} ranks, expert_parallel_size {}, ZeRO {}, buckets of {} bytes, overlap {}, experts {}, "
            "on_node {}",
            world->size(), ep, reduce.zero ? "on" : "off", reduce.bucket_bytes, reduce.overlap ? "on" : "off",
            name_of(options.home), world == shared.get() ? "shared" : "mpi");
        check_equal(found, expected, layout);
        const std::string digest = digest_of(*world, found);
        BOOST_TEST_MESSAGE(digest << "  " << layout);
        BOOST_CHECK_EQUAL(digest, expected_digest);
      }
    }
  }
  shared->close();
}

/// The bits of one rank alone, everywhere.
void check_all_layouts(test::EngineOptions options) {
  auto alone = comm::make_local_communicator();
  options.expert_parallel_size = 1;
  const test::EngineResult expected = test::run_engine(*alone, options);
  BOOST_CHECK_GT(expected.norms.front(), 0.0);
  check_layouts_give(expected, digest_of(*alone, expected), options);
}

/// Numbers of the same sums in another order.
void check_close(const test::EngineResult& found, const test::EngineResult& expected) {
  // A gradient sums 5 micro-batches: 5 roundings of 2^-24 move its norm by 3e-7 where terms do not cancel;
  // later steps start from weights that differ as much.
  BOOST_TEST(found.norms == expected.norms, boost::test_tools::tolerance(1e-6)
                                                << boost::test_tools::per_element());
  BOOST_TEST(found.losses == expected.losses, boost::test_tools::tolerance(1e-6)
                                                  << boost::test_tools::per_element());
  double largest = 0.0;
  for (std::size_t i = 0; i < found.parameters.size(); ++i) {
    for (std::size_t j = 0; j < found.parameters[i].size(); ++j) {
      largest = std::max(largest,
                         std::abs(static_cast<double>(found.parameters[i][j]) - expected.parameters[i][j]));
    }
  }
  // AdamW moves a parameter by at most 1e-2 a step, and by as much whatever the size of its gradient: where
  // terms cancel to a thousandth the direction is known to 3e-4 of it.
  BOOST_TEST(largest < 1e-5);
}

/// One reduction per step: the bits of one layout of these ranks on all of them, and the default's numbers;
/// the default's bits where no rank has two micro-batches.
void check_once_per_step(test::EngineOptions options) {
  const auto alone = comm::make_local_communicator();
  const auto both = [&](std::int64_t num_micro_batches) {
    options.num_micro_batches = num_micro_batches;
    options.reduce.once_per_step = false;
    const test::EngineResult expected = test::run_engine(*alone, options);
    options.reduce.once_per_step = true;
    return std::pair(test::run_engine(test::world(), options), expected);
  };
  for (const std::int64_t few : {1, test::world().size()}) {
    const auto [found, expected] = both(few);
    check_equal(found, expected, fmt::format("one reduction of {} micro-batches", few));
  }
  const auto [found, expected] = both(5);  // 2 and 3 ranks: some have none in the last micro-step
  check_close(found, expected);
  check_layouts_give(found, digest_of(test::world(), found), options);
}

}  // namespace

BOOST_AUTO_TEST_CASE(one_reduction_per_step) {
  check_once_per_step({.num_experts = {6, 2, 1, 1, 4},
                       .trainable = TrainableSet::experts_and_routers,
                       .num_steps = 2,
                       .scales = {.lm = 0.02, .balancing = 0.01}});
  check_once_per_step(
      {.num_experts = {1, 1}, .trainable = TrainableSet::all, .num_steps = 2, .scales = {.lm = 0.02}});
}

BOOST_AUTO_TEST_CASE(stage_1, *boost::unit_test::label("trap_01") * boost::unit_test::label("trap_03") *
                                  boost::unit_test::label("trap_15") *
                                  boost::unit_test::label("complaint_unequal_layers") *
                                  boost::unit_test::label("complaint_expert_gradient_scale") *
                                  boost::unit_test::label("complaint_auxiliary_gradient_scale") *
                                  boost::unit_test::label("complaint_buckets_and_overlap")) {
  check_all_layouts({.num_experts = {6, 2, 1, 1, 4},
                     .trainable = TrainableSet::experts_and_routers,
                     .num_steps = 10,
                     .scales = {.lm = 0.02, .balancing = 0.01}});
}

BOOST_AUTO_TEST_CASE(stage_1_of_an_extended_mixture) {
  check_all_layouts({.num_experts = {6, 2, 1, 3, 4},
                     .trainable = TrainableSet::experts_and_routers,
                     .num_steps = 2,
                     .scales = {.lm = 0.02, .balancing = 0.01},
                     .num_old_experts = {4, 2, 1, 1, 2}});
}

BOOST_AUTO_TEST_CASE(stage_2, *boost::unit_test::label("trap_03") * boost::unit_test::label("trap_15") *
                                  boost::unit_test::label("complaint_buckets_and_overlap")) {
  check_all_layouts({.num_experts = {6, 2, 1, 1, 4},
                     .trainable = TrainableSet::routers,
                     .num_steps = 10,
                     .scales = {.lm = 0.02, .lpr = 0.1}});
}

BOOST_AUTO_TEST_CASE(gradients_that_travel_as_bfloat16, *boost::unit_test::label("trap_13")) {
  check_all_layouts({.num_experts = {3, 1, 2},
                     .trainable = TrainableSet::experts_and_routers,
                     .reduce = {.wire_dtype = DType::bfloat16},
                     .scales = {.lm = 0.02, .balancing = 0.01}});
}

BOOST_AUTO_TEST_CASE(pretrain, *boost::unit_test::label("trap_15") *
                                   boost::unit_test::label("complaint_buckets_and_overlap")) {
  check_all_layouts({.num_experts = {1, 1}, .trainable = TrainableSet::all, .scales = {.lm = 0.02}});
}

BOOST_AUTO_TEST_CASE(fewer_micro_batches_than_ranks, *boost::unit_test::label("trap_02")) {
  check_all_layouts({.num_experts = {3, 1},
                     .trainable = TrainableSet::experts_and_routers,
                     .num_micro_batches = 1,
                     .scales = {.lm = 0.02, .balancing = 0.01}});
}

BOOST_AUTO_TEST_CASE(more_ranks_than_experts, *boost::unit_test::label("trap_16") *
                                                  boost::unit_test::label("complaint_hang_without_tokens")) {
  check_all_layouts({.num_experts = {2},
                     .trainable = TrainableSet::experts_and_routers,
                     .scales = {.lm = 0.02, .balancing = 0.01}});
}

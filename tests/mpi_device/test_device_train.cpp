// The engine with everything in (emulated) GPU memory, between ranks by every transport: the bits of one rank
// alone on a GPU.
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "support/device_communicators.hpp"
#include "support/engine.hpp"

using namespace nmoe;
using model::TrainableSet;

namespace {

void check_layouts(const std::string& transport, test::EngineOptions options) {
  options.device = Device::cuda;  // emulated, so slow: two steps of three micro-batches
  options.num_steps = 2;
  options.num_micro_batches = 3;
  const auto alone = comm::make_local_communicator();
  const test::EngineResult expected = test::run_engine(*alone, options);
  BOOST_TEST(expected.norms.front() > 0.0);
  const auto world = test::make_device_world(transport, {});
  for (const int ep : {1, world->size()}) {
    if (ep == 1 && world->size() == 2) continue;  // 3 and 4 ranks have both
    options.expert_parallel_size = ep;
    const test::EngineResult found = test::run_engine(*world, options);
    BOOST_TEST_CONTEXT(world->size() << " ranks, expert_parallel_size " << ep) {
      BOOST_TEST(found.losses == expected.losses, boost::test_tools::per_element());
      BOOST_TEST(found.norms == expected.norms, boost::test_tools::per_element());
      for (std::size_t i = 0; i < found.parameters.size(); ++i)
        BOOST_CHECK(found.parameters[i].empty() || found.parameters[i] == expected.parameters[i]);
    }
  }
  world->close();
}

}  // namespace

BOOST_DATA_TEST_CASE(stage_1, test::transports, transport) {
  check_layouts(transport, {.num_experts = {3, 1, 2},
                            .trainable = TrainableSet::experts_and_routers,
                            .scales = {.lm = 0.02, .balancing = 0.01}});
}

BOOST_DATA_TEST_CASE(stage_2, test::transports, transport) {
  check_layouts(
      transport,
      {.num_experts = {3, 1, 2}, .trainable = TrainableSet::routers, .scales = {.lm = 0.02, .lpr = 0.1}});
}

BOOST_DATA_TEST_CASE(pretrain_without_sharding, test::transports, transport) {
  check_layouts(transport, {.num_experts = {1, 1},
                            .trainable = TrainableSet::all,
                            .reduce = {.bucket_bytes = 600, .zero = false},
                            .scales = {.lm = 0.02}});
}

// Gradients stay in GPU memory for a whole step. On 3 and 4 ranks nobody has two of the three micro-batches,
// so the bits are those of one rank; with fewer, sums of three terms are taken in another order.
BOOST_AUTO_TEST_CASE(one_reduction_per_step) {
  test::EngineOptions options{.num_experts = {3, 1, 2},
                              .trainable = TrainableSet::experts_and_routers,
                              .num_micro_batches = 3,
                              .num_steps = 1,
                              .scales = {.lm = 0.02, .balancing = 0.01},
                              .device = Device::cuda};
  const auto alone = comm::make_local_communicator();
  const test::EngineResult expected = test::run_engine(*alone, options);
  const auto world = test::make_device_world("host copies", {});
  options.expert_parallel_size = world->size();
  options.reduce.once_per_step = true;
  const test::EngineResult found = test::run_engine(*world, options);
  BOOST_TEST(found.losses == expected.losses, boost::test_tools::per_element());
  BOOST_TEST(found.norms.front() == expected.norms.front(), boost::test_tools::tolerance(1e-6));
  if (world->size() >= 3) BOOST_TEST(found.norms.front() == expected.norms.front());
  world->close();
}

// The engine of one rank on the CPU: float32 sums of up to 70 terms in another order, three steps.
BOOST_AUTO_TEST_CASE(one_gpu_gives_the_losses_of_the_cpu) {
  test::EngineOptions options{.num_experts = {3, 1, 2},
                              .trainable = TrainableSet::experts_and_routers,
                              .scales = {.lm = 0.02, .balancing = 0.01}};
  const auto alone = comm::make_local_communicator();
  const test::EngineResult cpu = test::run_engine(*alone, options);
  options.device = Device::cuda;
  const test::EngineResult gpu = test::run_engine(*alone, options);
  for (std::size_t i = 0; i < cpu.losses.size(); ++i)
    BOOST_TEST(gpu.losses[i] == cpu.losses[i], boost::test_tools::tolerance(1e-5));
  for (std::size_t i = 0; i < cpu.norms.size(); ++i)
    BOOST_TEST(gpu.norms[i] == cpu.norms[i], boost::test_tools::tolerance(1e-4));
}

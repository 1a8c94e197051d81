// The engine between ranks, by every transport, while streams run in unlucky orders: the bits of one rank
// whose work is done at once. Buckets are small, so that buffers are used again while others travel.
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <string>

#include "support/cuda_emulation/streams.hpp"
#include "support/device_communicators.hpp"
#include "support/engine.hpp"

using namespace nmoe;
using model::TrainableSet;

namespace {

/// All ranks go on in another order.
void use_order(const std::string& order) {
  test::world().barrier();
  emulation::finish_everything();
  test::world().barrier();
  emulation::use_order(order);
}

/// Orders 0, 1, ... of the emulated streams: NMOE_TEST_ORDERS of them.
int num_orders() {
  const char* text = std::getenv("NMOE_TEST_ORDERS");
  return text == nullptr ? 5 : std::atoi(text);
}

void check_orders(const std::string& transport, test::EngineOptions options) {
  options.device = Device::cuda;
  options.num_steps = 2;
  options.num_micro_batches = 2;
  options.reduce.bucket_bytes = 600;
  use_order("immediate");
  const auto alone = comm::make_local_communicator();
  const test::EngineResult expected = test::run_engine(*alone, options);
  BOOST_TEST(expected.norms.front() > 0.0);
  for (int order = 0; order < num_orders(); ++order) {
    use_order(std::to_string(order));
    const auto world = test::make_device_world(transport, {});
    options.expert_parallel_size = order % 2 == 0 ? world->size() : 1;
    const test::EngineResult found = test::run_engine(*world, options);
    world->close();
    BOOST_TEST_CONTEXT("order " << order) {
      BOOST_TEST(found.losses == expected.losses, boost::test_tools::per_element());
      BOOST_TEST(found.norms == expected.norms, boost::test_tools::per_element());
      for (std::size_t i = 0; i < found.parameters.size(); ++i)
        BOOST_CHECK(found.parameters[i].empty() || found.parameters[i] == expected.parameters[i]);
    }
  }
  use_order("immediate");
}

}  // namespace

BOOST_DATA_TEST_CASE(training, test::transports, transport) {
  check_orders(transport, {.num_experts = {2, 1},
                           .trainable = TrainableSet::experts_and_routers,
                           .scales = {.lm = 0.02, .balancing = 0.01}});
}

BOOST_DATA_TEST_CASE(training_without_sharding, test::transports, transport) {
  check_orders(transport, {.num_experts = {1, 1},
                           .trainable = TrainableSet::all,
                           .reduce = {.zero = false},
                           .scales = {.lm = 0.02}});
}

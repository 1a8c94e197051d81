// Twenty optimizer steps of both stages against PyTorch with every tensor in (emulated) GPU memory.
#include "support/device_communicators.hpp"
#include "support/golden_run.hpp"

using namespace nmoe;

namespace {

/// All ranks by host copies, experts spread over them. The bounds are those of the CPU: float32 and bfloat16
/// are rounded no more often, sums are float32 in another order.
void check_on_device(const std::string& name) {
  const nlohmann::json moe = test::golden_reference().at("moe");
  const auto world = test::make_device_world("host copies", {});
  test::check_run(*world, Device::cuda, moe, name, world->size());
  world->close();
}

}  // namespace

BOOST_AUTO_TEST_CASE(stage_1) {
  check_on_device("stage1");
}

BOOST_AUTO_TEST_CASE(stage_2) {
  check_on_device("stage2");
}

BOOST_AUTO_TEST_CASE(bfloat16_with_float32_masters) {
  check_on_device("bfloat16");
}

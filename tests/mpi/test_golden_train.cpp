// Twenty optimizer steps of both stages against PyTorch on every layout. Six micro-batches a step, so
// gradients accumulate on up to 4 ranks; the cosine falls to its end; about half of the steps are clipped.
#include "support/golden_run.hpp"

using namespace nmoe;

namespace {

/// The first of `names` with every expert_parallel_size; its variants with the experts on two ranks where
/// that divides.
void check_runs(const std::vector<std::string>& names) {
  const nlohmann::json moe = test::golden_reference().at("moe");
  const int size = test::world().size();
  for (int ep = 1; ep <= size; ++ep) {
    if (size % ep != 0) continue;
    for (const std::string& name : names) {
      if (name != names.front() && ep != (size % 2 == 0 ? 2 : 1)) continue;
      BOOST_TEST_CONTEXT(name << ", expert_parallel_size " << ep) {
        test::check_run(test::world(), Device::cpu, moe, name, ep);
      }
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(stage_1, *boost::unit_test::label("trap_02") * boost::unit_test::label("trap_03") *
                                  boost::unit_test::label("complaint_mean_of_means")) {
  check_runs({"stage1", "microbatch_mean", "top_1", "all_experts", "eos_label", "packed"});
}

BOOST_AUTO_TEST_CASE(stage_2, *boost::unit_test::label("trap_02")) {
  check_runs({"stage2", "stage2_nll_flat", "stage2_off"});
}

BOOST_AUTO_TEST_CASE(bfloat16_with_float32_masters, *boost::unit_test::label("trap_12")) {
  check_runs({"bfloat16", "bfloat16_release"});
}

// Two micro-batches: needs two ranks at least, idle ones do no harm; on one it is refused.
BOOST_AUTO_TEST_CASE(balancing_loss_over_the_global_batch, *boost::unit_test::label("trap_05")) {
  if (test::world().size() > 1) return check_runs({"global_balancing"});
  const std::string problem =
      test::expect_error(ErrorCode::config, {"lbl.scope = global", "2 micro-batches", "1 ranks", "local"},
                         [] { check_runs({"global_balancing"}); });
  BOOST_TEST(problem == "");
}

// What a run counts is what `plan` predicts, to the last operation and byte: three small shapes on every
// layout (DESIGN 6, "Counters").
#include <fmt/format.h>

#include <cmath>

#include "support/planned_run.hpp"

using namespace nmoe;

namespace {

/// Modeled and measured time stand beside each other, also where the machine of the config has one rank.
void check_times(const train::RunAccounts& accounts) {
  BOOST_REQUIRE(accounts.step_s.size() == 2U);
  BOOST_CHECK_CLOSE(accounts.measured_step_s(), (accounts.step_s[0] + accounts.step_s[1]) / 2, 1e-9);
  BOOST_TEST(accounts.measured_step_s() > 0);
  BOOST_TEST(accounts.modeled_step_s > 0);
  BOOST_TEST(std::isfinite(accounts.modeled_step_s));
  const std::string text = accounts.to_string();
  BOOST_TEST(text.find(fmt::format(
                 "time of a step: {:.4g} s modeled (laptop: 0.2 TFLOP/s x 60 %), {:.4g} s measured",
                 accounts.modeled_step_s, accounts.measured_step_s())) != std::string::npos);
  BOOST_REQUIRE(!accounts.save_s.empty());
  const double in_steps = accounts.step_s[0] + accounts.step_s[1];
  BOOST_TEST(accounts.save_s.back() + in_steps < accounts.wall_s);
  if (test::world().rank() == 0) BOOST_TEST(accounts.saved_bytes > 0);
  BOOST_TEST(text.find(fmt::format("effective training time {:.1f} %", 100 * in_steps / accounts.wall_s)) !=
             std::string::npos);
}

void check_shape(const test::PlannedRun& shape, bool exact_memory) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("plan");
  test::write_token_corpus(world, shared.path() + "/tokens.h5");
  struct Variant {
    std::int64_t bucket_bytes;
    bool overlap = true, zero = true;
    DType gradient_dtype = DType::float32;
    train::ReduceEvery reduce_every = train::ReduceEvery::micro_step;
  };
  const Variant variants[] = {{.bucket_bytes = 1 << 20},
                              {.bucket_bytes = 4096, .overlap = false, .gradient_dtype = DType::bfloat16},
                              {.bucket_bytes = 8192, .zero = false},
                              {.bucket_bytes = 16384, .reduce_every = train::ReduceEvery::step}};
  for (int ep = 1; ep <= world.size(); ++ep) {
    if (world.size() % ep != 0) continue;
    for (const Variant& v : variants) {
      if (ep != world.size() && v.bucket_bytes != 1 << 20) continue;  // a run costs a checkpoint
      test::PlannedRun run = shape;
      run.config.expert_parallel_size = ep;
      run.config.expert_placement = v.zero ? model::ExpertHome::owned : model::ExpertHome::automatic;
      run.config.bucket_bytes = v.bucket_bytes;
      run.config.overlap = v.overlap;
      run.config.zero = v.zero;
      run.config.gradient_dtype = v.gradient_dtype;
      run.config.reduce_every = v.reduce_every;
      BOOST_TEST_CONTEXT("expert_parallel_size " << ep << ", ZeRO " << v.zero << ", reduce_every "
                                                 << name_of(v.reduce_every)) {
        const test::CountedRun counted = test::count_run(run, shared.path());
        BOOST_TEST(counted.accounts.num_steps == 2);
        check_times(counted.accounts);
        test::check_counts(counted.accounts);
        if (ep == 1) test::check_reserve(counted);  // else other ranks may send more
        if (!exact_memory) continue;
        BOOST_TEST(counted.accounts.flops == counted.accounts.balanced_flops);
        const std::int64_t num_micro_batches = run.config.global_batch_size / run.config.micro_batch_size;
        if (num_micro_batches % world.size() == 0)  // else the last micro-step has fewer tokens to receive
          BOOST_TEST(counted.saved == counted.planned_saved, boost::test_tools::per_element());
        if (num_micro_batches < world.size()) continue;  // ranks without work
        test::check_activations(counted.accounts);
      }
    }
  }
  world.barrier();
}

test::PlannedRun shape(train::RunKind kind, std::vector<int> num_experts, int top_k, std::int64_t micro_batch,
                       std::int64_t global_batch) {
  test::PlannedRun run(kind, std::move(num_experts));
  run.config.top_k = top_k;
  run.config.micro_batch_size = micro_batch;
  run.config.global_batch_size = global_batch;
  return run;
}

}  // namespace

BOOST_AUTO_TEST_CASE(stage_1_with_routing_known_beforehand,
                     *boost::unit_test::label("complaint_memory_estimate")) {
  check_shape(shape(train::RunKind::stage1, {1, 2, 1, 3}, 3, 2, 10), true);
}

BOOST_AUTO_TEST_CASE(stage_1_with_learnt_routing, *boost::unit_test::label("trap_04")) {
  test::PlannedRun run = shape(train::RunKind::stage1, {6, 2, 1, 1, 4}, 2, 2, 8);
  run.measured = {{90, 5, 40, 1, 30, 2}, {84, 84}, {0}, {0}, {100, 60, 5, 3}};
  check_shape(run, false);
}

BOOST_AUTO_TEST_CASE(stage_1_of_an_extended_mixture) {
  test::PlannedRun run = shape(train::RunKind::stage1, {3, 2, 1, 3}, 3, 2, 10);
  run.num_old_experts = {2, 2, 1, 1};
  check_shape(run, true);
}

BOOST_AUTO_TEST_CASE(stage_2, *boost::unit_test::label("complaint_memory_estimate")) {
  check_shape(shape(train::RunKind::stage2, {2, 1, 2}, 2, 3, 12), true);
}

BOOST_AUTO_TEST_CASE(pretrain) {
  check_shape(shape(train::RunKind::pretrain, {1, 1, 1}, 2, 2, 6), true);
}

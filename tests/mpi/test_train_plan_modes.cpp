// Plan equals count in every mode of a run, and whatever the router does stays inside what was reserved.
#include "support/planned_run.hpp"

using namespace nmoe;

namespace {

test::PlannedRun small_run(train::RunKind kind, std::vector<int> num_experts) {
  test::PlannedRun run(kind, std::move(num_experts));
  run.hidden_size = 12;
  run.intermediate_size = 20;
  run.config.steps = 1;
  run.config.micro_batch_size = 3;
  run.config.global_batch_size = 3 * test::world().size();  // lbl.scope = global: a micro-batch per rank
  return run;
}

void check_run(const test::PlannedRun& run, const std::string& directory) {
  const train::TrainConfig& c = run.config;
  BOOST_TEST_CONTEXT(name_of(c.dtype) << ", compat " << name_of(c.router_compat) << ", scope "
                                      << name_of(c.lbl_scope) << ", expert_parallel_size "
                                      << c.expert_parallel_size << ", " << name_of(c.expert_placement)) {
    const test::CountedRun counted = test::count_run(run, directory);
    test::check_counts(counted.accounts);
    test::check_activations(counted.accounts);
    test::check_reserve(counted);
    BOOST_TEST(counted.saved == counted.planned_saved, boost::test_tools::per_element());
  }
}

/// Every token visits every expert: routing is known beforehand.
void check_modes(train::RunKind kind) {
  const test::SharedDirectory shared("plan_modes");
  test::write_token_corpus(test::world(), shared.path() + "/tokens.h5");
  test::PlannedRun run = small_run(kind, {2, 1, 3});
  run.config.top_k = 3;
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const auto& compat : enum_table<model::RouterCompat>) {
      for (const auto& scope : enum_table<train::BalancingScope>) {
        for (const int ep : {1, 2}) {
          for (const auto home : {model::ExpertHome::owned, model::ExpertHome::replicated}) {
            if (test::world().size() % ep != 0) continue;
            // Modes are walked whole on one and two ranks; more ranks take the two ends.
            const bool far = dtype == DType::bfloat16;
            const bool an_end = (compat.value == model::RouterCompat::release) == far &&
                                (scope.value == train::BalancingScope::global) == far;
            if (test::world().size() > 2 && !an_end) continue;
            if (ep == 1 && home != model::ExpertHome::owned) continue;  // one rank per group has all of them
            run.config.dtype = dtype;
            run.config.router_compat = compat.value;
            run.config.lbl_scope = scope.value;
            run.config.expert_parallel_size = ep;
            run.config.expert_placement = home;
            check_run(run, shared.path());
          }
        }
      }
    }
  }
  test::world().barrier();
}

/// Sends every token to two experts of four: the router sees nothing but the first hidden element, which is
/// large and positive for every token.
void send_all_to(model::Decoder& decoder, int first, int second) {
  for (model::Parameter& p : decoder.parameters()) {
    if (p.role == model::Role::embedding) {
      for (std::int64_t v = 0; v < p.shape[0]; ++v) p.value.data<float>()[v * p.shape[1]] = 100.0F;
    } else if (p.is_router()) {
      for (std::int64_t i = 0; i < p.shape.num_elements(); ++i) p.value.data<float>()[i] = 0.0F;
      for (const int e : {first, second}) p.value.data<float>()[e * p.shape[1]] = 1.0F;
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(stage_1, *boost::unit_test::label("complaint_memory_estimate")) {
  check_modes(train::RunKind::stage1);
}

BOOST_AUTO_TEST_CASE(stage_2, *boost::unit_test::label("complaint_memory_estimate")) {
  check_modes(train::RunKind::stage2);
}

BOOST_AUTO_TEST_CASE(pretrain) {
  check_modes(train::RunKind::pretrain);
}

BOOST_AUTO_TEST_CASE(norms_of_q_and_k) {
  const test::SharedDirectory shared("plan_qk_norm");
  test::write_token_corpus(test::world(), shared.path() + "/tokens.h5");
  for (const train::RunKind kind :
       {train::RunKind::pretrain, train::RunKind::stage1, train::RunKind::stage2}) {
    test::PlannedRun run = small_run(kind, {2, 1, 3});
    run.config.top_k = 3;
    run.qk_norm = true;
    run.intermediate_size = 2;  // so that attention takes the most scratch memory
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      run.config.dtype = dtype;
      check_run(run, shared.path());
    }
  }
  test::world().barrier();
}

BOOST_AUTO_TEST_CASE(skewed_routing_stays_inside_the_reserve) {
  const test::SharedDirectory shared("plan_skew");
  test::write_token_corpus(test::world(), shared.path() + "/tokens.h5");
  for (const auto& [first, second] : {std::pair{0, 1}, std::pair{2, 3}}) {
    for (const train::RunKind kind : {train::RunKind::stage1, train::RunKind::stage2}) {
      test::PlannedRun run = small_run(kind, {4, 1, 4});
      run.intermediate_size = 4000;  // so that rows of experts outweigh what is reserved for rounding
      run.config.micro_batch_size = 16;
      run.config.global_batch_size = 16 * test::world().size();
      run.config.router_compat = model::RouterCompat::release;
      run.prepare = [first = first, second = second](model::Decoder& d) { send_all_to(d, first, second); };
      const test::CountedRun counted = test::count_run(run, shared.path());
      test::check_counts(counted.accounts);
      test::check_reserve(counted);
      const std::int64_t tokens = run.config.micro_batch_size * run.config.seq_length;
      for (const int layer : {0, 2}) {
        const auto& slots = counted.routed_slots[static_cast<std::size_t>(layer)];
        BOOST_TEST(slots[static_cast<std::size_t>(first)] == tokens);
        BOOST_TEST(slots[static_cast<std::size_t>(second)] == tokens);
      }
    }
  }
  test::world().barrier();
}

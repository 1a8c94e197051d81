// Whole training runs with files: the same checkpoint bytes on every layout, exact resume, elastic resume,
// frozen weights.
#include <hdf5.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>

#include "support/training_run.hpp"

using namespace nmoe;
using test::digest;
using test::run_alone;
using test::run_training;
using test::step_dir;
using RunOptions = test::TrainingOptions;

BOOST_AUTO_TEST_CASE(checkpoints_have_the_same_bytes_on_every_layout,
                     *boost::unit_test::label("trap_14") *
                         boost::unit_test::label("complaint_unequal_layers")) {
  comm::Communicator& world = test::world();
  for (const train::RunKind kind :
       {train::RunKind::stage1, train::RunKind::stage2, train::RunKind::pretrain}) {
    const test::SharedDirectory shared("layouts");
    const std::string tokens = shared.path() + "/tokens.h5";
    test::write_token_corpus(world, tokens);
    run_alone(shared.path(), tokens, kind);
    for (int ep = 1; ep <= world.size(); ++ep) {
      if (world.size() % ep != 0) continue;
      const std::string output = fmt::format("{}/ep{}", shared.path(), ep);
      run_training(world, tokens, {.output = output, .kind = kind, .expert_parallel_size = ep});
      world.barrier();
      for (const std::int64_t step : {3, 6}) {
        BOOST_CHECK_EQUAL(digest(step_dir(output, step)), digest(step_dir(shared.path() + "/alone", step)));
      }
    }
    world.barrier();
  }
}

BOOST_AUTO_TEST_CASE(a_resumed_run_ends_with_the_same_bytes,
                     *boost::unit_test::label("trap_12") * boost::unit_test::label("trap_19") *
                         boost::unit_test::label("complaint_frozen_not_saved")) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("resume");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  run_alone(shared.path(), tokens, train::RunKind::stage1);
  const std::string output = shared.path() + "/run";
  // The first half on the whole world, with experts spread; the second half on whatever layout is left.
  run_training(world, tokens, {.output = output, .expert_parallel_size = world.size()});
  world.barrier();
  if (world.rank() == 0) std::filesystem::remove_all(step_dir(output, 6));
  world.barrier();
  train::TrainResult result;
  run_training(world, tokens, {.output = output, .expert_parallel_size = 1}, &result);
  BOOST_CHECK_EQUAL(result.completed_steps, 6);
  world.barrier();
  BOOST_CHECK_EQUAL(digest(step_dir(output, 6)), digest(step_dir(shared.path() + "/alone", 6)));
  std::ifstream metrics(output + "/metrics.jsonl");
  int lines = 0;
  for (std::string line; std::getline(metrics, line);) ++lines;
  BOOST_CHECK_EQUAL(lines, 6);
  world.barrier();
}

// Sums of a step end with it: a checkpoint holds none of them, and experts may be spread otherwise
// afterwards.
BOOST_AUTO_TEST_CASE(a_resumed_run_with_one_reduction_per_step_ends_with_the_same_bytes) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("once");
  const std::string tokens = shared.path() + "/tokens.h5", output = shared.path() + "/run";
  test::write_token_corpus(world, tokens);
  RunOptions options{
      .output = output, .expert_parallel_size = world.size(), .reduce_every = train::ReduceEvery::step};
  run_training(world, tokens, options);
  world.barrier();
  const std::string expected = digest(step_dir(output, 6));
  world.barrier();
  if (world.rank() == 0) std::filesystem::remove_all(step_dir(output, 6));
  world.barrier();
  options.expert_parallel_size = 1;
  run_training(world, tokens, options);
  world.barrier();
  BOOST_CHECK_EQUAL(digest(step_dir(output, 6)), expected);
  world.barrier();
}

// Every pair of rank counts up to this run's, experts spread as far as they go on one side and over all ranks
// or none on the other: 16 pairs on 4 ranks. What one layout saves, the other continues with the same bits.
BOOST_AUTO_TEST_CASE(any_layout_resumes_what_another_saved,
                     *boost::unit_test::label("complaint_layout_bound_checkpoints") *
                         boost::unit_test::label("complaint_samples_lost")) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("pairs");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  run_alone(shared.path(), tokens, train::RunKind::stage1);
  const std::string expected = digest(step_dir(shared.path() + "/alone", 6));
  const auto on_ranks = [&](int count, const RunOptions& options) {
    const std::unique_ptr<comm::Communicator> part = world.split(world.rank() < count ? 0 : 1, world.rank());
    if (world.rank() < count) run_training(*part, tokens, options);
    part->close();
    world.barrier();
  };
  for (int writers = 1; writers <= world.size(); ++writers) {
    const std::string saved = fmt::format("{}/from{}", shared.path(), writers);
    on_ranks(writers, {.output = saved, .expert_parallel_size = writers});
    for (int readers = 1; readers <= world.size(); ++readers) {
      const std::string output = fmt::format("{}to{}", saved, readers);
      if (world.rank() == 0) {
        std::filesystem::create_directory(output);
        std::filesystem::copy(step_dir(saved, 3), step_dir(output, 3));
      }
      world.barrier();
      on_ranks(readers,
               {.output = output, .expert_parallel_size = (writers + readers) % 2 == 0 ? readers : 1});
      BOOST_CHECK_EQUAL(digest(step_dir(output, 6)), expected);
      world.barrier();
    }
  }
}

// Where experts live is decided by counts of an earlier run, of the checkpoint that is resumed or by none:
// the files are the same, the counts in them included.
BOOST_AUTO_TEST_CASE(placement_by_measured_tokens_changes_no_bit) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("measured");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::vector<int> num_experts = {6, 2, 1, 4};
  const auto own = world.split(world.rank(), 0);
  comm::agree(world, [&] {
    if (world.rank() == 0)
      run_training(*own, tokens, {.output = shared.path() + "/alone", .num_experts = num_experts});
  });
  own->close();
  const auto counts_of = [&](std::int64_t step) {
    return train::measured_tokens(step_dir(shared.path() + "/alone", step), test::tiny_config(num_experts))
        .counts;
  };
  const model::ExpertTokens half = counts_of(3), whole = counts_of(6);
  BOOST_REQUIRE_EQUAL(whole.size(), 4);
  BOOST_CHECK((whole[1] == std::vector<std::int64_t>{480, 480}));  // 6 steps of 10 sequences of 8 tokens
  BOOST_CHECK((half[1] == std::vector<std::int64_t>{240, 240}));
  const auto [least, most] = std::minmax_element(whole[0].begin() + 1, whole[0].end());
  BOOST_CHECK_GT(*most, 2 * *least);  // skewed, so that there is something to balance
  for (int ep = 1; ep <= world.size(); ++ep) {
    if (world.size() % ep != 0) continue;
    const auto placed = [&](const model::ExpertTokens& by) {
      return model::ExpertPlacement(num_experts, ep, 0, model::ExpertHome::owned, by).to_string();
    };
    BOOST_CHECK_EQUAL(placed(whole) != placed({}), ep > 1);
    const std::string output = fmt::format("{}/ep{}", shared.path(), ep);
    RunOptions options{
        .output = output, .expert_parallel_size = ep, .num_experts = num_experts, .measured = whole};
    run_training(world, tokens, options);
    world.barrier();
    for (const std::int64_t step : {3, 6})
      BOOST_CHECK_EQUAL(digest(step_dir(output, step)), digest(step_dir(shared.path() + "/alone", step)));
    world.barrier();
    if (world.rank() == 0) std::filesystem::remove_all(step_dir(output, 6));
    world.barrier();
    options.measured = half;
    run_training(world, tokens, options);
    world.barrier();
    BOOST_CHECK_EQUAL(digest(step_dir(output, 6)), digest(step_dir(shared.path() + "/alone", 6)));
    world.barrier();
  }
}

BOOST_AUTO_TEST_CASE(a_checkpoint_without_token_counts_is_resumed) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("uncounted");
  const std::string tokens = shared.path() + "/tokens.h5", output = shared.path() + "/run";
  test::write_token_corpus(world, tokens);
  run_training(world, tokens, {.output = output, .steps = 3});
  world.barrier();
  const std::string half = step_dir(output, 3);
  if (world.rank() == 0) {
    const hid_t file = H5Fopen((half + "/state.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    BOOST_CHECK_GE(H5Ldelete(file, "/routing", H5P_DEFAULT), 0);
    BOOST_CHECK_GE(H5Fclose(file), 0);
  }
  world.barrier();
  const io::ManifestFacts facts = io::read_manifest_facts(half);
  world.barrier();
  io::write_manifest(world, half, facts);
  BOOST_CHECK(!train::measured_tokens(half, test::tiny_config({3, 1, 2})));
  train::TrainResult result;
  run_training(world, tokens, {.output = output}, &result);
  BOOST_CHECK_EQUAL(result.completed_steps, 6);
  world.barrier();
  const train::MeasuredTokens found =
      train::measured_tokens(step_dir(output, 6), test::tiny_config({3, 1, 2}));
  BOOST_CHECK((found.counts.at(2) == std::vector<std::int64_t>{240, 240}));  // from step 3 on
  world.barrier();
}

BOOST_AUTO_TEST_CASE(a_damaged_checkpoint_is_passed_over) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("damaged");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::string output = shared.path() + "/run";
  run_training(world, tokens, {.output = output});
  world.barrier();
  const std::string expected = digest(step_dir(output, 6));
  world.barrier();
  if (world.rank() == 0) {
    std::fstream file(step_dir(output, 6) + "/optim.h5", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-100, std::ios::end);
    file.put('\x7f');
  }
  world.barrier();
  run_training(world, tokens, {.output = output});  // goes on from step 3
  world.barrier();
  BOOST_CHECK_EQUAL(digest(step_dir(output, 6)), expected);
  world.barrier();
}

BOOST_AUTO_TEST_CASE(a_stop_request_saves_and_a_new_run_goes_on) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("signal");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  train::TrainResult result;
  run_training(world, tokens, {.output = shared.path() + "/run", .stop_before_first_step = true}, &result);
  BOOST_CHECK(result.saved_on_signal);
  BOOST_CHECK_EQUAL(result.completed_steps, 0);
  BOOST_CHECK(std::filesystem::exists(step_dir(shared.path() + "/run", 0) + "/manifest.json"));
  world.barrier();
}

BOOST_AUTO_TEST_CASE(frozen_weights_are_frozen, *boost::unit_test::label("trap_18") *
                                                    boost::unit_test::label("complaint_frozen_not_saved")) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("frozen");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::string before =
      run_training(world, tokens, {.output = shared.path() + "/a", .stop_before_first_step = true});
  const std::string after = run_training(world, tokens, {.output = shared.path() + "/b"});
  BOOST_CHECK_EQUAL(before, after);
  world.barrier();
}

BOOST_AUTO_TEST_CASE(an_expert_parallel_size_that_does_not_divide_is_refused) {
  comm::Communicator& world = test::world();
  BOOST_CHECK_EXCEPTION(train::ParallelGroups(world, world.size() + 1), Error,
                        [](const Error& e) { return e.code() == ErrorCode::config; });
}
